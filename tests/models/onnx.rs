//! Writes ONNX files field by field, sound ones and such as no exporter would write.

/// A protobuf message under construction.
#[derive(Clone, Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    pub fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    pub fn int(self, field: u32, value: i64) -> Self {
        self.varint(u64::from(field) << 3).varint(value as u64)
    }

    pub fn bytes(self, field: u32, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let mut message = self.varint(u64::from(field) << 3 | 2).varint(bytes.len() as u64);
        message.0.extend(bytes);
        message
    }

    pub fn message(self, field: u32, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    pub fn messages(self, field: u32, messages: &[Self]) -> Self {
        messages.iter().fold(self, |all, message| all.message(field, message))
    }
}

pub const FLOAT: i64 = 1;
pub const INT64: i64 = 7;

/// A `TensorProto` without data.
pub fn bare_tensor(name: &str, element: i64, dims: &[i64]) -> Message {
    dims.iter().fold(Message::default(), |tensor, &side| tensor.int(1, side)).int(2, element).bytes(8, name)
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> Message {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    bare_tensor(name, FLOAT, dims).bytes(9, bytes)
}

pub fn integers(name: &str, dims: &[i64], values: &[i64]) -> Message {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    bare_tensor(name, INT64, dims).bytes(9, bytes)
}

/// A tensor whose data is said to be in the file `location`.
pub fn external(name: &str, location: &str) -> Message {
    let entry = |key: &str, value: &str| Message::default().bytes(1, key).bytes(2, value);
    let tensor = bare_tensor(name, FLOAT, &[4]);
    tensor.message(13, &entry("offset", "0")).message(13, &entry("location", location)).int(14, 1)
}

/// A `NodeProto`.
pub fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.bytes(1, input));
    let node = outputs.iter().fold(node, |node, output| node.bytes(2, output));
    node.bytes(3, format!("{operator} to {}", outputs.join(", "))).bytes(4, operator)
}

impl Message {
    fn attribute(self, name: &str, kind: i64, fill: impl FnOnce(Message) -> Message) -> Self {
        self.message(5, &fill(Message::default().bytes(1, name)).int(20, kind))
    }

    pub fn with_int(self, name: &str, value: i64) -> Self {
        self.attribute(name, 2, |attribute| attribute.int(3, value))
    }

    pub fn with_ints(self, name: &str, values: &[i64]) -> Self {
        self.attribute(name, 7, |attribute| values.iter().fold(attribute, |a, &value| a.int(8, value)))
    }

    pub fn with_tensor(self, name: &str, tensor: &Message) -> Self {
        self.attribute(name, 4, |attribute| attribute.message(5, tensor))
    }

    pub fn with_sparse(self, name: &str, tensor: &Message) -> Self {
        self.attribute(name, 11, |attribute| attribute.message(22, tensor))
    }

    pub fn with_graph(self, name: &str, graph: &Graph) -> Self {
        self.attribute(name, 5, |attribute| attribute.message(6, &graph.message()))
    }

    pub fn in_domain(self, domain: &str) -> Self {
        self.bytes(7, domain)
    }
}

/// A `ValueInfoProto`; a side below 0 is free.
pub fn value(name: &str, element: i64, dims: &[i64]) -> Message {
    let side = |side: i64| match side {
        ..0 => Message::default().bytes(2, format!("free{}", -side)),
        _ => Message::default().int(1, side),
    };
    let shape = dims.iter().fold(Message::default(), |shape, &dim| shape.message(1, &side(dim)));
    let tensor = Message::default().int(1, element).message(2, &shape);
    Message::default().bytes(1, name).message(2, &Message::default().message(1, &tensor))
}

/// A `GraphProto`.
#[derive(Clone, Default)]
pub struct Graph {
    pub nodes: Vec<Message>,
    pub initialisers: Vec<Message>,
    pub sparse: Vec<Message>,
    pub inputs: Vec<Message>,
    pub outputs: Vec<Message>,
}

impl Graph {
    pub fn message(&self) -> Message {
        let graph = Message::default().messages(1, &self.nodes).bytes(2, "graph");
        let graph = graph.messages(5, &self.initialisers).messages(15, &self.sparse);
        graph.messages(11, &self.inputs).messages(12, &self.outputs)
    }
}

/// A `ModelProto` and what can be said of it.
#[derive(Clone)]
pub struct Model {
    pub ir_version: i64,
    pub opsets: Vec<(String, i64)>,
    pub graph: Graph,
    pub functions: Vec<Message>,
    pub metadata: Vec<(String, String)>,
}

impl Model {
    pub fn of(graph: Graph) -> Self {
        let opsets = vec![(String::new(), 17)];
        Self { ir_version: 8, opsets, graph, functions: Vec::new(), metadata: Vec::new() }
    }

    pub fn with_metadata(mut self, entries: &[(&str, &str)]) -> Self {
        self.metadata.extend(entries.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())));
        self
    }

    pub fn message(&self) -> Message {
        let model = Message::default().int(1, self.ir_version).bytes(2, "vigie's tests");
        let opsets =
            self.opsets.iter().map(|(domain, version)| Message::default().bytes(1, domain).int(2, *version));
        let metadata =
            self.metadata.iter().map(|(key, text)| Message::default().bytes(1, key).bytes(2, text));
        let model = model.message(7, &self.graph.message()).messages(8, &opsets.collect::<Vec<_>>());
        model.messages(14, &metadata.collect::<Vec<_>>()).messages(25, &self.functions)
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.message().0
    }
}

/// A graph that looks at its `input` and then always gives `rows`, once `finish` has made `output0` of their `sum`.
pub fn constant(input: (&str, &[i64]), dims: &[i64], rows: &[f32], finish: Message) -> Model {
    let (name, input_dims) = input;
    Model::of(Graph {
        nodes: vec![
            node("ReduceMean", &[name], &["mean"]).with_ints("axes", &[1, 2, 3]).with_int("keepdims", 0),
            node("Mul", &["mean", "nothing"], &["none"]),
            node("Add", &["rows", "none"], &["sum"]),
            finish,
        ],
        initialisers: vec![floats("rows", dims, rows), floats("nothing", &[1], &[0.0])],
        inputs: vec![value(name, FLOAT, input_dims)],
        outputs: vec![value("output0", FLOAT, dims)],
        ..Graph::default()
    })
}

/// A detector of two classes, as Ultralytics exports them (`[1, 4 + 2, anchors]`), for pictures of `side` by `side`, that always gives
/// `values` at its first anchor and `others` at the others, once `finish` has gone over them.
pub fn constant_detector(side: i64, values: [f32; 6], others: f32, finish: &str) -> Model {
    let anchors: i64 = [8, 16, 32].iter().map(|stride| (side / stride).pow(2)).sum();
    let row = |first: f32| std::iter::once(first).chain(std::iter::repeat_n(others, anchors as usize - 1));
    let rows: Vec<f32> = values.into_iter().flat_map(row).collect();
    let finish = node(finish, &["sum"], &["output0"]);
    constant(("images", &[1, 3, side, side]), &[1, 6, anchors], &rows, finish)
}

/// A `FunctionProto` of one input and one output.
pub fn function(domain: &str, name: &str, nodes: &[Message]) -> Message {
    let opset = Message::default().bytes(1, "").int(2, 17);
    let own = Message::default().bytes(1, domain).int(2, 1);
    let function = Message::default().bytes(1, name).bytes(4, "x").bytes(5, "y").messages(7, nodes);
    function.message(9, &opset).message(9, &own).bytes(10, domain)
}
