//! A request's tensors held against what the model takes, before anything runs. Pure.

use super::error::OipError;
use super::numbers;
use super::request::{Data, Given, InferRequest, Wanted};
use crate::inference::engine::{Description, Port};
use crate::inference::tensor::{Element, Tensor, TensorData};

#[cfg(target_endian = "big")]
compile_error!("binary tensors are little-endian, and are taken as they lie in memory");

/// The protocol's name of an element type.
pub fn datatype(element: Element) -> &'static str {
    match element {
        Element::U8 => "UINT8",
        Element::I32 => "INT32",
        Element::I64 => "INT64",
        Element::F32 => "FP32",
    }
}

/// The name for a port of another type, which no request can name.
pub const UNKNOWN_DATATYPE: &str = "UNKNOWN";

/// The tensors of a request in the model's order, none of them with more than `max_elements`.
///
/// # Errors
/// [`OipError`] for the first input that is not as the model takes it.
pub fn read(
    request: &InferRequest<'_>,
    model: &Description,
    max_elements: usize,
) -> Result<Vec<Tensor>, OipError> {
    for (at, given) in request.inputs.iter().enumerate() {
        let name = || given.name.to_string();
        if !model.inputs.iter().any(|port| port.name == given.name) {
            let known = model.inputs.iter().map(|port| port.name.clone()).collect();
            return Err(OipError::UnknownInput { name: name(), known });
        }
        if request.inputs[..at].iter().any(|other| other.name == given.name) {
            return Err(OipError::DoubleInput { name: name() });
        }
    }
    let find = |port: &Port| {
        let given = request.inputs.iter().find(|given| port.name == given.name);
        given.ok_or_else(|| OipError::MissingInput { name: port.name.clone() })
    };
    model.inputs.iter().map(|port| read_one(find(port)?, port, max_elements)).collect()
}

fn read_one(given: &Given<'_>, port: &Port, max_elements: usize) -> Result<Tensor, OipError> {
    let name = || port.name.clone();
    let Some(element) = port.element.filter(|element| datatype(*element) == given.datatype) else {
        let expected = port.element.map_or(UNKNOWN_DATATYPE, datatype);
        let given = given.datatype.chars().take(40).collect();
        return Err(OipError::WrongDatatype { name: name(), given, expected });
    };
    let fits = |(&given, &expected): (&u64, &i64)| {
        given > 0 && (expected < 0 || u64::try_from(expected) == Ok(given))
    };
    if given.shape.len() != port.shape.len() || !given.shape.iter().zip(&port.shape).all(fits) {
        let expected = port.shape.clone();
        return Err(OipError::WrongShape { name: name(), given: given.shape.clone(), expected });
    }
    let elements = given.shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side));
    let elements = elements.unwrap_or(u64::MAX);
    if elements > max_elements as u64 {
        return Err(OipError::TooManyElements { name: name(), given: elements, max: max_elements });
    }
    let count = elements as usize;
    let data = match given.data {
        Data::Binary(bytes) => {
            let (given, expected) = (bytes.len() as u64, elements * element.size() as u64);
            if given != expected {
                return Err(OipError::WrongByteCount { name: name(), given, expected });
            }
            TensorData::from_bytes(element, bytes)
        }
        Data::Json(json) => numbers::read(json, element, count)
            .map_err(|reason| OipError::WrongData { name: name(), reason })?,
    };
    // None is larger than the product, which fits.
    Ok(Tensor { shape: given.shape.iter().map(|&side| side as usize).collect(), data })
}

/// Whether the outputs that are wanted are the model's, each once.
///
/// # Errors
/// [`OipError`] for the first that is not.
pub fn check_outputs(wanted: &Wanted, model: &Description) -> Result<(), OipError> {
    let Wanted::These(wanted) = wanted else { return Ok(()) };
    if let Some(at) = (1..wanted.len()).find(|&at| wanted[..at].iter().any(|(name, _)| *name == wanted[at].0))
    {
        return Err(OipError::DoubleOutput { name: wanted[at].0.clone() });
    }
    let is_known = |name: &str| model.outputs.iter().any(|port| port.name == name);
    match wanted.iter().find(|(name, _)| !is_known(name)) {
        None => Ok(()),
        Some((name, _)) => {
            let known = model.outputs.iter().map(|port| port.name.clone()).collect();
            Err(OipError::UnknownOutput { name: name.clone(), known })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::parse;
    use super::*;

    fn port(name: &str, element: Element, shape: &[i64]) -> Port {
        Port { name: name.into(), element: Some(element), shape: shape.to_vec() }
    }

    fn two_inputs() -> Description {
        Description {
            inputs: vec![port("picture", Element::U8, &[-1, 2, 2]), port("size", Element::I64, &[-1, 2])],
            outputs: vec![port("boxes", Element::F32, &[-1, 4])],
        }
    }

    fn read_json(inputs: &str) -> Result<Vec<Tensor>, OipError> {
        let json = format!(r#"{{"inputs":[{inputs}]}}"#);
        read(&parse(json.as_bytes(), None)?, &two_inputs(), 100)
    }

    const PICTURE: &str = r#"{"name":"picture","datatype":"UINT8","shape":[1,2,2],"data":[1,2,3,4]}"#;
    const SIZE: &str = r#"{"name":"size","datatype":"INT64","shape":[1,2],"data":[[640,480]]}"#;

    #[test]
    fn tensors_come_in_the_models_order() {
        let tensors = read_json(&format!("{SIZE},{PICTURE}")).unwrap();
        let expected =
            [Tensor::u8(&[1, 2, 2], vec![1, 2, 3, 4]), Tensor::new(&[1, 2], TensorData::I64(vec![640, 480]))];
        assert_eq!(tensors, expected);
    }

    #[test]
    fn what_the_model_does_not_take_is_named() {
        let picture = |from: &str, to: &str| format!("{SIZE},{}", PICTURE.replace(from, to));
        for (inputs, code) in [
            (SIZE.to_owned(), "missing_input"),
            (format!("{SIZE},{PICTURE},{SIZE}"), "double_input"),
            (picture("picture", "pictures"), "unknown_input"),
            (picture("UINT8", "FP32"), "wrong_datatype"),
            (picture("UINT8", "uint8"), "wrong_datatype"),
            (picture("UINT8", "BYTES"), "wrong_datatype"),
            (picture("[1,2,2]", "[1,2,3]"), "wrong_shape"),
            (picture("[1,2,2]", "[1,4]"), "wrong_shape"),
            (picture("[1,2,2]", "[0,2,2]"), "wrong_shape"),
            (picture("[1,2,2]", "[2,2,2]"), "wrong_data"),
            (picture("[1,2,2]", "[26,2,2]"), "too_large"),
            (picture("[1,2,2]", "[18446744073709551615,2,2]"), "too_large"),
            (picture("[1,2,3,4]", "[1,2,3,256]"), "wrong_data"),
        ] {
            assert_eq!(read_json(&inputs).unwrap_err().code(), code, "{inputs}");
        }
    }

    #[test]
    fn binary_data_has_the_shapes_bytes() {
        let model = Description {
            inputs: vec![port("a", Element::F32, &[-1, 2])],
            outputs: vec![port("b", Element::F32, &[-1])],
        };
        let json = r#"{"inputs":[{"name":"a","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":N}}]}"#;
        let read = |bytes: &[u8]| {
            let json = json.replace('N', &bytes.len().to_string());
            read(&parse(&[json.as_bytes(), bytes].concat(), Some(json.len()))?, &model, 100)
        };
        let floats = [1.5f32, -2.0];
        let bytes: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(read(&bytes), Ok(vec![Tensor::f32(&[1, 2], floats.to_vec())]));
        let error = OipError::WrongByteCount { name: "a".into(), given: 7, expected: 8 };
        assert_eq!(read(&bytes[..7]), Err(error));
        let check = |names: &[&str]| {
            let wanted = names.iter().map(|&name| (name.to_owned(), true)).collect();
            check_outputs(&Wanted::These(wanted), &model).map_err(|error| error.code())
        };
        assert_eq!(check(&["b"]), Ok(()));
        assert_eq!(check(&["c"]), Err("unknown_output"));
        assert_eq!(check(&["b", "b"]), Err("double_output"));
    }
}
