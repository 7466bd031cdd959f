//! The answer to an inference request: JSON, and binary tensors after it. Pure.

use serde::Serialize;

use super::request::Wanted;
use super::tensors::datatype;
use crate::inference::tensor::{Outputs, Tensor, TensorData};

/// What goes back: the JSON, then the tensors' bytes, little-endian, in its order.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub json: Vec<u8>,
    /// `None` where every output stands in the JSON.
    pub binary: Option<Vec<TensorData>>,
}

/// Who answers what.
#[derive(Clone, Debug)]
pub struct Title<'a> {
    pub model: &'a str,
    pub version: u32,
    pub id: Option<&'a str>,
}

#[derive(Serialize)]
struct AnswerJson<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<OutputJson<'a>>,
}

#[derive(Serialize)]
struct OutputJson<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<OutputParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Values<'a>>,
}

#[derive(Serialize)]
struct OutputParameters {
    binary_data_size: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Values<'a> {
    U8(&'a [u8]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    F32(&'a [f32]),
}

impl<'a> Values<'a> {
    fn of(data: &'a TensorData) -> Self {
        match data {
            TensorData::U8(values) => Self::U8(values),
            TensorData::I32(values) => Self::I32(values),
            TensorData::I64(values) => Self::I64(values),
            TensorData::F32(values) => Self::F32(values),
        }
    }
}

impl Answer {
    /// The outputs that are wanted of those there are.
    pub fn new(title: &Title<'_>, outputs: Outputs, wanted: &Wanted) -> Self {
        let chosen = choose(outputs, wanted);
        let described = chosen.iter().map(|(name, tensor, is_binary)| OutputJson {
            name,
            datatype: datatype(tensor.data.element()),
            shape: &tensor.shape,
            parameters: is_binary
                .then(|| OutputParameters { binary_data_size: tensor.data.as_bytes().len() }),
            data: (!is_binary).then(|| Values::of(&tensor.data)),
        });
        let json = AnswerJson {
            model_name: title.model,
            model_version: title.version.to_string(),
            id: title.id,
            outputs: described.collect(),
        };
        let json = serde_json::to_vec(&json).expect("names and numbers are always JSON");
        let has_binary = chosen.iter().any(|(_, _, is_binary)| *is_binary);
        let binary =
            chosen.into_iter().filter(|(_, _, is_binary)| *is_binary).map(|(_, tensor, _)| tensor.data);
        Self { json, binary: has_binary.then(|| binary.collect()) }
    }
}

/// Name, tensor, and whether it goes as binary data, of each output that is wanted.
fn choose(outputs: Outputs, wanted: &Wanted) -> Vec<(String, Tensor, bool)> {
    match wanted {
        Wanted::All { is_binary } => {
            outputs.0.into_iter().map(|(name, tensor)| (name, tensor, *is_binary)).collect()
        }
        Wanted::These(wanted) => {
            let mut outputs = outputs;
            let mut take = |(name, is_binary): &(String, bool)| {
                let (_, tensor) = outputs.0.iter_mut().find(|(known, _)| known == name)?;
                Some((name.clone(), std::mem::take(tensor), *is_binary))
            };
            wanted.iter().filter_map(|wanted| take(wanted)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs() -> Outputs {
        Outputs(vec![
            ("boxes".into(), Tensor::f32(&[1, 2], vec![0.5, -1.0])),
            ("classes".into(), Tensor::new(&[2], TensorData::I64(vec![7, 8]))),
        ])
    }

    fn answer(wanted: &Wanted) -> (String, Option<Vec<TensorData>>) {
        let title = Title { model: "m", version: 3, id: Some("a\"b") };
        let Answer { json, binary } = Answer::new(&title, outputs(), wanted);
        (String::from_utf8(json).unwrap(), binary)
    }

    #[test]
    fn outputs_stand_in_the_json_or_follow_it() {
        let head = r#"{"model_name":"m","model_version":"3","id":"a\"b","outputs":["#;
        let (json, binary) = answer(&Wanted::All { is_binary: false });
        let boxes = r#"{"name":"boxes","datatype":"FP32","shape":[1,2],"data":[0.5,-1.0]}"#;
        let classes = r#"{"name":"classes","datatype":"INT64","shape":[2],"data":[7,8]}"#;
        assert_eq!((json, binary), (format!("{head}{boxes},{classes}]}}"), None));

        let these = Wanted::These(vec![("classes".into(), true), ("boxes".into(), false)]);
        let (json, binary) = answer(&these);
        let classes =
            r#"{"name":"classes","datatype":"INT64","shape":[2],"parameters":{"binary_data_size":16}}"#;
        assert_eq!(json, format!("{head}{classes},{boxes}]}}"));
        assert_eq!(binary, Some(vec![TensorData::I64(vec![7, 8])]));
    }

    #[test]
    fn binary_outputs_are_little_endian() {
        let (_, binary) = answer(&Wanted::These(vec![("boxes".into(), true)]));
        let bytes: Vec<u8> = [0.5f32, -1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(binary.unwrap()[0].as_bytes(), bytes);
    }
}
