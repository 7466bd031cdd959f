//! Reads protobuf's wire format field by field, without copying and without taking anything at its word.
//!
//! A file is looked at before any runtime sees it, so what this reader takes must be what a runtime would
//! take: it refuses what parsers treat differently (groups, keys beyond 32 bits, fields of another wire
//! type than the schema's) instead of passing over it.

/// Why bytes are no protobuf message of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// They end in the middle of a field.
    Ends,
    /// They cannot be a message of this kind.
    Malformed(&'static str),
}

/// The content of one field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

impl<'a> Value<'a> {
    /// A number; enumerations and booleans are numbers too.
    pub fn varint(self) -> Result<u64, WireError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(WireError::Malformed("a number is written as something else")),
        }
    }

    /// Text, raw data or a message.
    pub fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(WireError::Malformed("text or a message is written as something else")),
        }
    }
}

/// The fields of one message, in the order of the file.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Result<(u32, Value<'a>), WireError> {
        let key = varint(&mut self.rest)?;
        let field = u32::try_from(key >> 3).ok().filter(|field| (1..=MAX_FIELD).contains(field));
        let field = field.ok_or(WireError::Malformed("a field number that cannot be"))?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut self.rest)?),
            1 => Value::Fixed64(*self.take_array()?),
            2 => {
                let length = usize::try_from(varint(&mut self.rest)?).map_err(|_| WireError::Ends)?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(*self.take_array()?),
            _ => return Err(WireError::Malformed("a group or a wire type that does not exist")),
        };
        Ok((field, value))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireError::Ends)?;
        self.rest = rest;
        Ok(taken)
    }

    fn take_array<const LENGTH: usize>(&mut self) -> Result<&'a [u8; LENGTH], WireError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(WireError::Ends)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Protobuf's highest field number.
const MAX_FIELD: u32 = (1 << 29) - 1;

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            // Nothing after a fault can be told apart.
            self.rest = &[];
        }
        Some(read)
    }
}

/// How many numbers a repeated number field holds, written packed or one by one, each passed to `each`.
pub fn each_varint(value: Value<'_>, mut each: impl FnMut(u64)) -> Result<(), WireError> {
    match value {
        Value::Varint(number) => each(number),
        Value::Bytes(mut packed) => {
            while !packed.is_empty() {
                each(varint(&mut packed)?);
            }
        }
        _ => return Err(WireError::Malformed("a number is written as something else")),
    }
    Ok(())
}

/// How many values of `size` bytes (4 or 8) a repeated field of fixed size holds.
pub fn count_fixed(value: Value<'_>, size: usize) -> Result<u64, WireError> {
    match value {
        Value::Fixed32(_) if size == 4 => Ok(1),
        Value::Fixed64(_) if size == 8 => Ok(1),
        Value::Bytes(packed) if packed.len().is_multiple_of(size) => Ok((packed.len() / size) as u64),
        _ => Err(WireError::Malformed("values are written as something else")),
    }
}

/// At most ten bytes of seven bits each, the lowest first.
fn varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(WireError::Ends)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(WireError::Malformed("a number of more than ten bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(message: &[u8]) -> Vec<Result<(u32, Value<'_>), WireError>> {
        Fields::of(message).collect()
    }

    #[test]
    fn reads_each_wire_type() {
        let message = [0x08, 0x96, 1, 0x12, 2, 7, 8, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8];
        let expected = [
            Ok((1, Value::Varint(150))),
            Ok((2, Value::Bytes(&[7, 8]))),
            Ok((3, Value::Fixed32([1, 2, 3, 4]))),
            Ok((4, Value::Fixed64([1, 2, 3, 4, 5, 6, 7, 8]))),
        ];
        assert_eq!(all(&message), expected);
    }

    #[test]
    fn what_runtimes_might_read_otherwise_is_refused() {
        let malformed = |message: &[u8]| matches!(all(message)[..], [Err(WireError::Malformed(_))]);
        assert!(malformed(&[0x0b, 0x0c]), "a group");
        assert!(malformed(&[0x0f]), "wire type 7");
        assert!(malformed(&[0x00, 1]), "field 0");
        assert!(malformed(&[0x88, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 1]), "a key beyond 32 bits");
        assert!(malformed(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), "eleven bytes");
    }

    #[test]
    fn lengths_are_not_believed() {
        for message in [&[0x0a, 5, 1][..], &[0x0a, 255, 255, 255, 255, 15], &[0x08], &[0x0d, 1], &[0x80]] {
            assert_eq!(all(message), [Err(WireError::Ends)], "{message:?}");
        }
        let huge = [0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0];
        assert_eq!(all(&huge), [Err(WireError::Ends)]);
    }

    #[test]
    fn repeated_numbers_are_read_packed_or_not() {
        let mut seen = Vec::new();
        each_varint(Value::Bytes(&[1, 0x96, 1, 3]), |number| seen.push(number)).unwrap();
        each_varint(Value::Varint(9), |number| seen.push(number)).unwrap();
        assert_eq!(seen, [1, 150, 3, 9]);
        assert_eq!(each_varint(Value::Bytes(&[0x80]), |_| ()), Err(WireError::Ends));
        assert_eq!(count_fixed(Value::Bytes(&[0; 12]), 4), Ok(3));
        assert!(count_fixed(Value::Bytes(&[0; 13]), 4).is_err());
        assert!(count_fixed(Value::Varint(1), 4).is_err());
    }
}
