//! An inference request as it comes in: JSON, and binary tensors after it. Pure.
//!
//! Nothing of the model is known here; what is named, and how many bytes each tensor has, is.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use super::error::OipError;

/// Inputs, outputs and sides of a shape: none of our models has nearly as many.
const MAX_LIST: usize = 64;
/// Characters of a request's id, which comes back in its answer.
const MAX_ID: usize = 256;

/// One request, whose tensors lie where they came in.
#[derive(Debug)]
pub struct InferRequest<'a> {
    pub id: Option<String>,
    pub inputs: Vec<Given<'a>>,
    pub wanted: Wanted,
}

/// An input that is given.
#[derive(Debug)]
pub struct Given<'a> {
    pub name: Cow<'a, str>,
    pub shape: Vec<u64>,
    pub datatype: Cow<'a, str>,
    pub data: Data<'a>,
}

/// Where an input's elements are.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    Json(&'a RawValue),
    /// Little-endian, row-major.
    Binary(&'a [u8]),
}

/// Which outputs are to come back, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    All {
        is_binary: bool,
    },
    /// In this order: name, and whether as binary data.
    These(Vec<(String, bool)>),
}

#[derive(Deserialize)]
struct RequestJson<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Option<RequestParameters>,
    #[serde(borrow, deserialize_with = "short_list")]
    inputs: Vec<InputJson<'a>>,
    #[serde(default, deserialize_with = "short_list")]
    outputs: Vec<OutputJson>,
}

#[derive(Deserialize)]
struct RequestParameters {
    #[serde(default)]
    binary_data_output: bool,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(deserialize_with = "short_list")]
    shape: Vec<u64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    parameters: Option<InputParameters>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct InputParameters {
    #[serde(default)]
    binary_data_size: Option<u64>,
    #[serde(default)]
    shared_memory_region: Option<de::IgnoredAny>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    #[serde(default)]
    parameters: Option<OutputParameters>,
}

#[derive(Deserialize)]
struct OutputParameters {
    #[serde(default)]
    binary_data: Option<bool>,
    #[serde(default)]
    shared_memory_region: Option<de::IgnoredAny>,
    #[serde(default)]
    classification: Option<de::IgnoredAny>,
}

/// Reads a body whose first `json_length` bytes are its JSON; all of it, where that is not said.
///
/// # Errors
/// [`OipError`] for what is not such a request, and for declared sizes that are not the body's.
pub fn parse(body: &[u8], json_length: Option<usize>) -> Result<InferRequest<'_>, OipError> {
    let unreadable = |reason: String| OipError::Unreadable { reason };
    let length = json_length.unwrap_or(body.len());
    let Some((json, mut binary)) = body.split_at_checked(length) else {
        let reason = format!("its JSON is said to have {length} bytes, the body has {}", body.len());
        return Err(unreadable(reason));
    };
    let RequestJson { id, parameters, inputs, outputs } =
        serde_json::from_slice(json).map_err(|error| unreadable(error.to_string()))?;
    if id.as_ref().is_some_and(|id| id.chars().count() > MAX_ID) {
        return Err(unreadable(format!("its id has more than {MAX_ID} characters")));
    }
    let is_binary = parameters.is_some_and(|parameters| parameters.binary_data_output);
    let inputs = inputs.into_iter().map(|input| take(input, &mut binary)).collect::<Result<_, _>>()?;
    if !binary.is_empty() {
        return Err(OipError::BinaryLeft { left: binary.len() as u64 });
    }
    let wanted = match outputs.is_empty() {
        true => Wanted::All { is_binary },
        false => {
            let named = outputs.into_iter().map(|output| ask(output, is_binary));
            Wanted::These(named.collect::<Result<_, _>>()?)
        }
    };
    Ok(InferRequest { id, inputs, wanted })
}

/// Gives an input its elements, which for a binary one are the next of `binary`.
fn take<'a>(input: InputJson<'a>, binary: &mut &'a [u8]) -> Result<Given<'a>, OipError> {
    let InputJson { name, shape, datatype, parameters, data } = input;
    let unsupported = |what: &str| OipError::Unsupported { what: what.to_owned() };
    let wrong = |reason: &str| OipError::WrongData { name: name.to_string(), reason: reason.to_owned() };
    let InputParameters { binary_data_size, shared_memory_region } =
        parameters.unwrap_or(InputParameters { binary_data_size: None, shared_memory_region: None });
    if shared_memory_region.is_some() {
        return Err(unsupported("shared memory"));
    }
    let data = match (data, binary_data_size) {
        (Some(json), None) => Data::Json(json),
        (None, Some(size)) => {
            let fits = usize::try_from(size).ok().and_then(|size| binary.split_at_checked(size));
            let Some((own, rest)) = fits else {
                return Err(OipError::BinaryEnds { given: binary.len() as u64, expected: size });
            };
            *binary = rest;
            Data::Binary(own)
        }
        (None, None) => return Err(wrong("it has neither data nor binary_data_size")),
        (Some(_), Some(_)) => return Err(wrong("it has both data and binary_data_size")),
    };
    Ok(Given { name, shape, datatype, data })
}

fn ask(output: OutputJson, is_binary: bool) -> Result<(String, bool), OipError> {
    let Some(parameters) = output.parameters else { return Ok((output.name, is_binary)) };
    let unsupported = |what: &str| Err(OipError::Unsupported { what: what.to_owned() });
    if parameters.shared_memory_region.is_some() {
        return unsupported("shared memory");
    }
    if parameters.classification.is_some() {
        return unsupported("classification of outputs");
    }
    Ok((output.name, parameters.binary_data.unwrap_or(is_binary)))
}

/// Reads a list of at most [`MAX_LIST`], or `null` for none.
fn short_list<'de, D, T>(source: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Short<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Short<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut found = Vec::new();
            while let Some(next) = list.next_element()? {
                if found.len() == MAX_LIST {
                    return Err(A::Error::custom(format_args!("a list has more than {MAX_LIST} entries")));
                }
                found.push(next);
            }
            Ok(found)
        }
    }
    source.deserialize_any(Short(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(name: &str, size: usize) -> String {
        format!(
            r#"{{"name":"{name}","shape":[{size}],"datatype":"UINT8","parameters":{{"binary_data_size":{size}}}}}"#
        )
    }

    #[test]
    fn binary_tensors_follow_the_json_in_its_order() {
        let json = format!(r#"{{"id":"7","inputs":[{},{}]}}"#, binary("a", 2), binary("b", 3));
        let body = [json.as_bytes(), &[1, 2, 3, 4, 5]].concat();
        let request = parse(&body, Some(json.len())).unwrap();
        assert_eq!(request.id.as_deref(), Some("7"));
        assert_eq!(request.wanted, Wanted::All { is_binary: false });
        let of = |at: usize| match request.inputs[at].data {
            Data::Binary(bytes) => bytes.to_vec(),
            Data::Json(_) => panic!("it is binary"),
        };
        assert_eq!((of(0), of(1)), (vec![1, 2], vec![3, 4, 5]));

        for (bytes, error) in [
            (&[1, 2, 3, 4][..], OipError::BinaryEnds { given: 2, expected: 3 }),
            (&[1, 2, 3, 4, 5, 6], OipError::BinaryLeft { left: 1 }),
        ] {
            let body = [json.as_bytes(), bytes].concat();
            assert_eq!(parse(&body, Some(json.len())).unwrap_err(), error);
        }
    }

    #[test]
    fn outputs_come_as_they_are_asked_for() {
        let wanted = |rest: &str| {
            let json =
                format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"FP32","data":[1]}}]{rest}}}"#);
            parse(json.as_bytes(), None).map(|request| request.wanted)
        };
        assert_eq!(wanted(""), Ok(Wanted::All { is_binary: false }));
        assert_eq!(
            wanted(r#","parameters":{"binary_data_output":true,"x":[1]}"#),
            Ok(Wanted::All { is_binary: true })
        );
        let these = r#","outputs":[{"name":"b","parameters":{"binary_data":false}},{"name":"c"}]"#;
        let named =
            |default: bool| Ok(Wanted::These(vec![("b".to_owned(), false), ("c".to_owned(), default)]));
        assert_eq!(wanted(these), named(false));
        assert_eq!(wanted(&format!(r#"{these},"parameters":{{"binary_data_output":true}}"#)), named(true));
        for unsupported in ["classification", "shared_memory_region"] {
            let rest = format!(r#","outputs":[{{"name":"b","parameters":{{"{unsupported}":1}}}}]"#);
            assert!(matches!(wanted(&rest), Err(OipError::Unsupported { .. })), "{unsupported}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let input =
            |rest: &str| format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"UINT8"{rest}}}]}}"#);
        let many = vec![binary("a", 0); MAX_LIST + 1].join(",");
        for (body, code) in [
            (String::new(), "invalid_request"),
            ("[]".into(), "invalid_request"),
            ("{}".into(), "invalid_request"),
            ("\u{0}\u{1}".into(), "invalid_request"),
            (
                r#"{"inputs":[{"name":"a","shape":[-1],"datatype":"UINT8","data":[]}]}"#.into(),
                "invalid_request",
            ),
            (
                r#"{"inputs":[{"name":"a","shape":[1e9],"datatype":"UINT8","data":[]}]}"#.into(),
                "invalid_request",
            ),
            (format!(r#"{{"inputs":[{many}]}}"#), "invalid_request"),
            (format!(r#"{{"id":"{}","inputs":[]}}"#, "x".repeat(MAX_ID + 1)), "invalid_request"),
            (input(""), "wrong_data"),
            (input(r#","data":[1],"parameters":{"binary_data_size":1}"#), "wrong_data"),
            (input(r#","parameters":{"shared_memory_region":"r"}"#), "unsupported"),
            (input(r#","parameters":{"binary_data_size":18446744073709551615}"#), "wrong_byte_count"),
        ] {
            assert_eq!(parse(body.as_bytes(), None).unwrap_err().code(), code, "{body:.80}");
        }
        assert_eq!(parse(b"{}", Some(3)).unwrap_err().code(), "invalid_request");
    }
}
