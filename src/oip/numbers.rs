//! A tensor's elements as JSON writes them: numbers in lists, flat or nested, in row-major order.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::inference::tensor::{Element, TensorData};

/// Reads `count` elements; more or fewer are an error, and none is kept beyond.
pub fn read(json: &RawValue, element: Element, count: usize) -> Result<TensorData, String> {
    Ok(match element {
        Element::U8 => TensorData::U8(flatten(json, count)?),
        Element::I32 => TensorData::I32(flatten(json, count)?),
        Element::I64 => TensorData::I64(flatten(json, count)?),
        Element::F32 => TensorData::F32(flatten(json, count)?),
    })
}

fn flatten<T: Number>(json: &RawValue, count: usize) -> Result<Vec<T>, String> {
    // A list of `count` numbers has at least so many characters: nobody reserves room by a large shape alone.
    let mut values = Vec::with_capacity(count.min(json.get().len()));
    let mut source = serde_json::Deserializer::from_str(json.get());
    Flat { values: &mut values, count }.deserialize(&mut source).map_err(|error| error.to_string())?;
    match values.len() {
        length if length == count => Ok(values),
        length => Err(format!("it has {length} elements, its shape makes {count}")),
    }
}

/// What can stand for an element.
trait Number: Copy {
    const NAME: &'static str;

    fn whole(value: i64) -> Option<Self>;

    fn real(value: f64) -> Option<Self>;
}

macro_rules! whole_number {
    ($type:ty, $name:literal) => {
        impl Number for $type {
            const NAME: &'static str = $name;

            fn whole(value: i64) -> Option<Self> {
                value.try_into().ok()
            }

            fn real(_: f64) -> Option<Self> {
                None
            }
        }
    };
}

whole_number!(u8, "a whole number from 0 to 255");
whole_number!(i32, "a whole number of 32 bits");
whole_number!(i64, "a whole number of 64 bits");

impl Number for f32 {
    const NAME: &'static str = "a number of 32 bits";

    fn whole(value: i64) -> Option<Self> {
        Some(value as f32)
    }

    fn real(value: f64) -> Option<Self> {
        Some(value as f32).filter(|value| value.is_finite())
    }
}

/// A number, or a list of such; how deep lists may nest is the JSON reader's to bound.
struct Flat<'a, T> {
    values: &'a mut Vec<T>,
    count: usize,
}

impl<T: Number> Flat<'_, T> {
    fn push<E: Error>(self, value: Option<T>, shown: impl fmt::Display) -> Result<(), E> {
        if self.values.len() == self.count {
            return Err(E::custom(format_args!(
                "there are more elements than the {} of its shape",
                self.count
            )));
        }
        self.values.push(value.ok_or_else(|| E::custom(format_args!("{shown} is not {}", T::NAME)))?);
        Ok(())
    }
}

impl<'de, T: Number> DeserializeSeed<'de> for Flat<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de, T: Number> Visitor<'de> for Flat<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or a list", T::NAME)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.push(T::whole(value), value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        let whole = i64::try_from(value).ok().and_then(T::whole);
        self.push(whole.or_else(|| T::real(value as f64)), value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.push(T::real(value), value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { values, count } = self;
        while list.next_element_seed(Flat { values: &mut *values, count })?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, element: Element, count: usize) -> Result<TensorData, String> {
        read(&RawValue::from_string(text.to_owned()).unwrap(), element, count)
    }

    #[test]
    fn flat_and_nested_lists_are_the_same() {
        for text in ["[1,2,3,4]", "[[1,2],[3,4]]", "[[[1],[2]],[[3],[4]]]"] {
            assert_eq!(read_text(text, Element::U8, 4), Ok(TensorData::U8(vec![1, 2, 3, 4])));
            assert_eq!(read_text(text, Element::F32, 4), Ok(TensorData::F32(vec![1.0, 2.0, 3.0, 4.0])));
            assert_eq!(read_text(text, Element::I64, 4), Ok(TensorData::I64(vec![1, 2, 3, 4])));
        }
        assert_eq!(read_text("[-1.5, 1e-3]", Element::F32, 2), Ok(TensorData::F32(vec![-1.5, 0.001])));
    }

    #[test]
    fn what_is_no_such_number_is_named() {
        for (text, element, reason) in [
            ("[256]", Element::U8, "256 is not a whole number from 0 to 255"),
            ("[-1]", Element::U8, "-1 is not"),
            ("[1.5]", Element::I64, "1.5 is not"),
            ("[18446744073709551615]", Element::I64, "18446744073709551615 is not"),
            ("[2147483648]", Element::I32, "2147483648 is not"),
            ("[1e300]", Element::F32, "is not a number of 32 bits"),
            ("[\"1\"]", Element::U8, "string"),
            ("[null]", Element::F32, "null"),
            ("[true]", Element::U8, "boolean"),
            ("{\"a\":1}", Element::U8, "map"),
            ("[1,2]", Element::U8, "more elements than the 1"),
            ("[]", Element::U8, "0 elements, its shape makes 1"),
        ] {
            let error = read_text(text, element, 1).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let deep = "[".repeat(100_000);
        let json = format!("{deep}1{}", "]".repeat(100_000));
        // Refused by who reads it first.
        assert!(
            serde_json::from_str::<&RawValue>(&json)
                .map(|raw| read(raw, Element::U8, 1))
                .is_ok_and(|read| read.is_err())
        );
    }
}
