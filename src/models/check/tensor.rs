//! Tensors and types: shapes that multiply out, and data that is in the file to the last byte.

use super::fault::{CheckError, Fault, shown};
use super::limits::{MAX_DEPTH, MAX_ELEMENTS, MAX_RANK};
use super::wire::{Fields, Value, count_fixed, each_varint};
use super::{Element, Port, checked_text, utf8};

/// What is needed of a tensor in the file.
#[derive(Debug, Default)]
pub(super) struct Tensor<'a> {
    pub name: &'a [u8],
    pub elements: u64,
    /// The value of a single 64-bit integer.
    pub integer: Option<i64>,
}

/// The fields of a `TensorProto` that say how many values it has and where they are.
#[derive(Default)]
struct Stored<'a> {
    dims: Vec<i64>,
    data_type: i64,
    raw: Option<&'a [u8]>,
    floats: u64,
    int32s: u64,
    strings: u64,
    int64s: u64,
    first_int64: Option<i64>,
    doubles: u64,
    uint64s: u64,
}

/// Checks a `TensorProto`.
pub(super) fn tensor(message: &[u8]) -> Result<Tensor<'_>, CheckError> {
    let mut tensor = Tensor::default();
    let mut stored = Stored::default();
    let mut outside: Option<&[u8]> = None;
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            1 => add_dims(&mut stored.dims, value)?,
            2 => stored.data_type = value.varint()? as i64,
            3 => return Err(Fault::Malformed("a tensor in segments").into()),
            4 => stored.floats += count_fixed(value, 4)?,
            5 => each_varint(value, |_| stored.int32s += 1)?,
            6 => {
                checked_text(value.bytes()?)?;
                stored.strings += 1;
            }
            7 => each_varint(value, |number| {
                stored.int64s += 1;
                stored.first_int64 = Some(number as i64);
            })?,
            8 => tensor.name = checked_text(value.bytes()?)?,
            9 => stored.raw = Some(value.bytes()?),
            10 => stored.doubles += count_fixed(value, 8)?,
            11 => each_varint(value, |_| stored.uint64s += 1)?,
            12 => drop(checked_text(value.bytes()?)?),
            13 => outside = location_in(value.bytes()?).or(outside).or(Some(b"?")),
            14 if value.varint()? != 0 => outside = outside.or(Some(b"?")),
            _ => {}
        }
    }
    let name = tensor.name;
    let place = |error: CheckError| error.within(|| format!("tensor {:?}", shown(name)));
    if let Some(location) = outside {
        return Err(place(Fault::ExternalData { location: shown(location) }.into()));
    }
    tensor.elements = elements(&stored.dims).map_err(place)?;
    stored.check(tensor.elements).map_err(|fault| place(fault.into()))?;
    tensor.integer = stored.single_integer(tensor.elements);
    Ok(tensor)
}

/// The file that an entry of `external_data` names, if it is the one that does.
fn location_in(entry: &[u8]) -> Option<&[u8]> {
    let (mut key, mut text) = (&b""[..], &b""[..]);
    for (number, value) in Fields::of(entry).flatten() {
        match (number, value) {
            (1, Value::Bytes(bytes)) => key = bytes,
            (2, Value::Bytes(bytes)) => text = bytes,
            _ => {}
        }
    }
    (key == b"location").then_some(text)
}

fn add_dims(dims: &mut Vec<i64>, value: Value<'_>) -> Result<(), CheckError> {
    let mut count = dims.len();
    each_varint(value, |side| {
        count += 1;
        if count <= MAX_RANK {
            dims.push(side as i64);
        }
    })?;
    if count > MAX_RANK {
        return Err(Fault::Dimensions(format!("of {count} sides")).into());
    }
    Ok(())
}

/// The product of a shape's sides.
fn elements(dims: &[i64]) -> Result<u64, CheckError> {
    let product = dims.iter().try_fold(1_u64, |product, &side| {
        let side = u64::try_from(side).ok()?;
        product.checked_mul(side).filter(|product| *product <= MAX_ELEMENTS)
    });
    // A side of 0 would hide what stands before or after it.
    let largest = dims.iter().all(|&side| u64::try_from(side).is_ok_and(|side| side <= MAX_ELEMENTS));
    product.filter(|_| largest).ok_or_else(|| Fault::Dimensions(format!("{dims:?}")).into())
}

impl Stored<'_> {
    /// Whether exactly the declared number of values is there.
    fn check(&self, elements: u64) -> Result<(), Fault> {
        let element = Element::of(self.data_type).ok_or(Fault::ElementType(self.data_type))?;
        let bits = element.bits();
        let listed = match element {
            Element::Float => self.floats,
            Element::Complex64 => self.floats / 2,
            Element::Double => self.doubles,
            Element::Complex128 => self.doubles / 2,
            Element::Int64 => self.int64s,
            Element::Uint32 | Element::Uint64 => self.uint64s,
            Element::Text => self.strings,
            // Several to a number.
            _ if bits < 8 => self.int32s * (8 / bits),
            _ => self.int32s,
        };
        let all = [self.floats, self.int32s, self.strings, self.int64s, self.doubles, self.uint64s];
        let lists = all.iter().filter(|&&count| count > 0).count();
        let (declared, given) = match self.raw {
            Some(_) if lists > 0 => return Err(Fault::Malformed("a tensor has its data twice")),
            Some(_) if element == Element::Text => return Err(Fault::Malformed("text as raw data")),
            Some(raw) => ((elements * bits).div_ceil(8), raw.len() as u64),
            None if lists > 1 => return Err(Fault::Malformed("a tensor has data of several types")),
            None if bits < 8 => (elements.next_multiple_of(8 / bits), listed),
            None => (elements * bits.max(8) / 8, listed * bits.max(8) / 8),
        };
        if declared != given {
            return Err(Fault::TensorData { declared, given });
        }
        Ok(())
    }

    fn single_integer(&self, elements: u64) -> Option<i64> {
        if self.data_type != Element::Int64 as i64 || elements != 1 {
            return None;
        }
        let from_raw = || Some(i64::from_le_bytes(*self.raw?.first_chunk()?));
        self.first_int64.or_else(from_raw)
    }
}

/// Checks a `SparseTensorProto` and returns it by its values, whose name it has.
pub(super) fn sparse_tensor(message: &[u8]) -> Result<Tensor<'_>, CheckError> {
    let mut values = None;
    let mut dims = Vec::new();
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            1 if values.is_some() => return Err(Fault::Malformed("a field is there twice").into()),
            1 => values = Some(tensor(value.bytes()?)?),
            2 => {
                tensor(value.bytes()?)?;
            }
            3 => add_dims(&mut dims, value)?,
            _ => {}
        }
    }
    let mut values = values.ok_or(Fault::Malformed("a sparse tensor without values"))?;
    // A runtime makes it dense when it loads the model: then it has all of its elements.
    let elements = elements(&dims)?;
    if elements > values.elements.saturating_mul(1000).max(1 << 20) {
        return Err(Fault::Dimensions(format!("{dims:?}")).into());
    }
    values.elements = elements;
    values.integer = None;
    Ok(values)
}

/// Reads a `ValueInfoProto`: a name and a type.
pub(super) fn value_info(message: &[u8]) -> Result<(&[u8], Port), CheckError> {
    let mut name: &[u8] = &[];
    let mut port = Port::default();
    let mut typed = false;
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            1 => name = checked_text(value.bytes()?)?,
            2 if typed => return Err(Fault::Malformed("a field is there twice").into()),
            2 => {
                typed = true;
                type_of(value.bytes()?, &mut port, 0)?;
            }
            _ => {}
        }
    }
    port.name = utf8(name)?.to_owned();
    Ok((name, port))
}

/// Reads a `TypeProto`; of what is no tensor only the depth is looked at.
pub(super) fn type_of(message: &[u8], port: &mut Port, depth: usize) -> Result<(), CheckError> {
    if depth > MAX_DEPTH {
        return Err(Fault::TooDeep.into());
    }
    let mut kinds = 0;
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            // Dense, and sparse: of the same fields.
            1 | 8 => tensor_type(value.bytes()?, port, number == 1)?,
            // Sequence, optional: field 1 is a type; map: field 2.
            4 | 5 | 9 => {
                for inner in Fields::of(value.bytes()?) {
                    if let (1 | 2, Value::Bytes(inner)) = inner? {
                        type_of(inner, &mut Port::default(), depth + 1)?;
                    }
                }
            }
            _ => continue,
        }
        kinds += 1;
    }
    match kinds {
        0 | 1 => Ok(()),
        _ => Err(Fault::Malformed("a value of two types").into()),
    }
}

fn tensor_type(message: &[u8], port: &mut Port, is_dense: bool) -> Result<(), CheckError> {
    let mut shape = None;
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            1 => {
                let element = value.varint()? as i64;
                // 0 is "undefined", which some exporters leave in subgraphs.
                let known = Element::of(element);
                if known.is_none() && element != 0 {
                    return Err(Fault::ElementType(element).into());
                }
                port.element = known.filter(|_| is_dense);
            }
            2 if shape.is_some() => return Err(Fault::Malformed("a field is there twice").into()),
            2 => shape = Some(sides(value.bytes()?)?),
            _ => {}
        }
    }
    if let Some(shape) = shape {
        let fixed: Vec<i64> = shape.iter().flatten().map(|&side| side as i64).collect();
        elements(&fixed)?;
        port.shape = Some(shape);
    }
    Ok(())
}

/// The sides of a `TensorShapeProto`; `None` is a free one.
fn sides(message: &[u8]) -> Result<Vec<Option<usize>>, CheckError> {
    let mut sides = Vec::new();
    for field in Fields::of(message) {
        let (1, value) = field? else { continue };
        if sides.len() == MAX_RANK {
            return Err(Fault::Dimensions(format!("of more than {MAX_RANK} sides")).into());
        }
        let mut side = None;
        for field in Fields::of(value.bytes()?) {
            match field? {
                // Below 1 is how some exporters write "free".
                (1, value) => side = usize::try_from(value.varint()? as i64).ok().filter(|side| *side > 0),
                (2, value) => {
                    checked_text(value.bytes()?)?;
                    side = None;
                }
                _ => {}
            }
        }
        sides.push(side);
    }
    Ok(sides)
}
