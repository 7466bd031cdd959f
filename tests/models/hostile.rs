//! Files that mean harm, or are no models at all: each is refused with its code, in bounded memory, and
//! what only shows when a model runs shows in the trial's process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vigie::models::check::check;
use vigie::models::heads::recognise::Wishes;
use vigie::models::intake::{Admitted, Candidate, Intake, PICTURE, Refusal};
use vigie::models::manifest::Provenance;
use vigie::models::store::Store;
use vigie::models::trial::{Limits, confine};

use crate::onnx::{
    FLOAT, Graph, INT64, Message, Model, bare_tensor, external, floats, function, integers, node, value,
};
use crate::runtime_path;

/// Counts what the thread that asks has taken, at most, since it last asked.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has no counters any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: all four hand their arguments to the system's allocator as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` took at most, in bytes.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    let done = work();
    (done, (PEAK.with(Cell::get) - before).max(0) as usize)
}

/// A sound graph: one picture in, `[1, 6, 21]` out of an average of it.
pub fn sound() -> Graph {
    Graph {
        nodes: vec![
            node("ReduceMean", &["images"], &["mean"]).with_ints("axes", &[1, 2, 3]).with_int("keepdims", 1),
            node("Reshape", &["mean", "shape"], &["flat"]),
            node("Mul", &["flat", "rows"], &["output0"]),
        ],
        initialisers: vec![integers("shape", &[3], &[1, 1, 1]), floats("rows", &[1, 6, 84], &[0.5; 6 * 84])],
        inputs: vec![value("images", FLOAT, &[1, 3, 64, 64])],
        outputs: vec![value("output0", FLOAT, &[1, 6, 84])],
        ..Graph::default()
    }
}

fn with_node(extra: Message) -> Vec<u8> {
    let mut graph = sound();
    graph.nodes.push(extra);
    Model::of(graph).bytes()
}

fn with_initialiser(tensor: Message) -> Vec<u8> {
    let mut graph = sound();
    graph.initialisers.push(tensor);
    Model::of(graph).bytes()
}

fn branch(node: Message) -> Graph {
    Graph { nodes: vec![node], outputs: vec![value("branch", FLOAT, &[1])], ..Graph::default() }
}

fn if_with(graph: &Graph) -> Message {
    node("If", &["condition"], &["chosen"]).with_graph("then_branch", graph).with_graph("else_branch", graph)
}

fn nested_ifs(depth: usize) -> Message {
    (0..depth).fold(node("Identity", &["mean"], &["branch"]), |inner, _| {
        node("If", &["condition"], &["branch"]).with_graph("then_branch", &branch(inner))
    })
}

/// A loop over a body of one node, `rounds` naming its trip count.
fn loop_over(rounds: &str, inside: Message) -> Message {
    let body = Graph {
        nodes: vec![inside],
        inputs: vec![value("round", INT64, &[]), value("go_on", 9, &[]), value("carried", FLOAT, &[1])],
        outputs: vec![value("go_on", 9, &[]), value("carried_on", FLOAT, &[1])],
        ..Graph::default()
    };
    node("Loop", &[rounds, "", "mean"], &["looped"]).with_graph("body", &body)
}

fn carry() -> Message {
    node("Identity", &["carried"], &["carried_on"])
}

fn with_loop(rounds: &str, tensors: &[Message], inside: Message) -> Vec<u8> {
    let mut graph = sound();
    graph.initialisers.extend_from_slice(tensors);
    graph.nodes.push(loop_over(rounds, inside));
    Model::of(graph).bytes()
}

fn with_functions(functions: Vec<Message>) -> Vec<u8> {
    let mut model = Model::of(sound());
    model.functions = functions;
    model.opsets.push(("own".to_owned(), 1));
    model.graph.nodes.push(node("f0", &["mean"], &["called"]).in_domain("own"));
    model.bytes()
}

fn call(name: &str) -> Message {
    node(name, &["x"], &["y"]).in_domain("own")
}

/// Every file that must not get as far as a trial, what it is, and its code.
pub fn corpus() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let sound_bytes = Model::of(sound()).bytes();
    let sparse_outside = Message::default().message(1, &external("sparse", "weights.bin"));
    let spread = |dims: &[i64]| {
        let indices = integers("indices", &[1], &[0]);
        let sparse = Message::default().message(1, &floats("spread", &[1], &[1.0])).message(2, &indices);
        dims.iter().fold(sparse, |sparse, &side| sparse.int(3, side))
    };
    let opset = |domain: &str, version| {
        let mut model = Model::of(sound());
        model.opsets = vec![(domain.to_owned(), version)];
        model.bytes()
    };
    let typed = |element| {
        let mut graph = sound();
        graph.outputs.push(value("other", element, &[1]));
        Model::of(graph).bytes()
    };
    let deep_type = (0..100_000).fold(Message::default(), |inner, _| {
        // Only as deep as bytes allow cheaply: each level holds the one before.
        if inner.0.len() > 4000 {
            inner
        } else {
            Message::default().message(4, &Message::default().message(1, &inner))
        }
    });
    let deep_value = Message::default().bytes(1, "deep").message(2, &deep_type);
    let doubling: Vec<Message> = (0..60)
        .map(|index| {
            let next = format!("f{}", index + 1);
            let twice = match index {
                59 => vec![node("Identity", &["x"], &["y"])],
                _ => vec![call(&next), call(&next)],
            };
            function("own", &format!("f{index}"), &twice)
        })
        .collect();
    let mut shadowed = sound();
    shadowed.initialisers.push(integers("rounds", &[], &[3]));
    shadowed.nodes.push(node("Add", &["rounds", "rounds"], &["rounds"]));
    shadowed.nodes.push(loop_over("rounds", carry()));
    let mut many_outputs = sound();
    let names: Vec<String> = (0..4000).map(|index| format!("o{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    many_outputs.nodes.extend(std::iter::repeat_n(node("Split", &["mean"], &names), 60));
    let pair = |first, second| Message::default().message(7, first).message(7, second);
    let graph = sound().message();
    let half = Message(sound_bytes[..sound_bytes.len() / 2].to_vec());

    vec![
        ("nothing", Vec::new(), "not_onnx"),
        ("a page", b"<!doctype html><html></html>".to_vec(), "not_onnx"),
        ("a picture", PICTURE.to_vec(), "not_onnx"),
        ("a checkpoint of PyTorch", b"PK\x03\x04\x00\x00\x08\x08archive/data.pkl".to_vec(), "not_onnx"),
        (
            "an ORT file",
            b"\x08\x08\x12\x40ORTM................................................................".to_vec(),
            "not_onnx",
        ),
        ("half a model", half.0, "truncated"),
        ("a group in it", [&sound_bytes[..], &[0x0b, 0x0c]].concat(), "malformed"),
        (
            "two graphs",
            Message::default().int(1, 8).bytes(2, "").0.into_iter().chain(pair(&graph, &graph).0).collect(),
            "malformed",
        ),
        ("a format of the future", Model { ir_version: 99, ..Model::of(sound()) }.bytes(), "ir_version"),
        ("operators of the future", opset("", 99), "opset"),
        ("operators of long ago", opset("", 1), "opset"),
        ("no operators", opset("com.example", 1), "missing"),
        (
            "an operator of Microsoft's",
            with_node(node("EPContext", &["mean"], &["o"]).in_domain("com.microsoft")),
            "custom_domain",
        ),
        (
            "an operator of one's own",
            with_node(node("Evil", &["mean"], &["o"]).in_domain("evil")),
            "custom_domain",
        ),
        (
            "an operator of one's own in a branch",
            with_node(if_with(&branch(node("Evil", &["mean"], &["branch"]).in_domain("evil")))),
            "custom_domain",
        ),
        ("data elsewhere", with_initialiser(external("w", "../../../../etc/passwd")), "external_data"),
        ("data elsewhere, absolute", with_initialiser(external("w", "/dev/zero")), "external_data"),
        (
            "data elsewhere, unnamed",
            with_initialiser(bare_tensor("w", FLOAT, &[4]).int(14, 1)),
            "external_data",
        ),
        (
            "data elsewhere in a branch",
            with_node(if_with(&Graph {
                initialisers: vec![external("w", "x.bin")],
                ..branch(node("Neg", &["w"], &["branch"]))
            })),
            "external_data",
        ),
        (
            "data elsewhere in a constant",
            with_node(node("Constant", &[], &["c"]).with_tensor("value", &external("w", "x"))),
            "external_data",
        ),
        (
            "data elsewhere in a sparse constant",
            with_node(node("Constant", &[], &["c"]).with_sparse("sparse_value", &sparse_outside)),
            "external_data",
        ),
        (
            "data elsewhere in a sparse initialiser",
            Model::of(Graph { sparse: vec![sparse_outside], ..sound() }).bytes(),
            "external_data",
        ),
        (
            "data elsewhere in a function",
            with_functions(vec![function(
                "own",
                "f0",
                &[node("Constant", &[], &["y"]).with_tensor("value", &external("w", "x"))],
            )]),
            "external_data",
        ),
        ("huge sides", with_initialiser(bare_tensor("w", FLOAT, &[1 << 40, 1 << 40])), "dimensions"),
        (
            "sides whose product wraps",
            with_initialiser(bare_tensor("w", FLOAT, &[1 << 32, 1 << 32])),
            "dimensions",
        ),
        (
            "a huge side beside an empty one",
            with_initialiser(bare_tensor("w", FLOAT, &[0, 1 << 62])),
            "dimensions",
        ),
        ("a side below nothing", with_initialiser(bare_tensor("w", FLOAT, &[-4])), "dimensions"),
        ("five thousand sides", with_initialiser(bare_tensor("w", FLOAT, &[1; 5000])), "dimensions"),
        (
            "a sparse tensor that is huge when dense",
            Model::of(Graph { sparse: vec![spread(&[1 << 29])], ..sound() }).bytes(),
            "dimensions",
        ),
        (
            "two gigabytes declared",
            with_initialiser(bare_tensor("w", FLOAT, &[1 << 29]).bytes(9, [0; 16])),
            "tensor_data",
        ),
        ("no data at all", with_initialiser(bare_tensor("w", FLOAT, &[4])), "tensor_data"),
        ("more data than declared", with_initialiser(floats("w", &[1], &[1.0, 2.0])), "tensor_data"),
        ("data twice", with_initialiser(floats("w", &[1], &[1.0]).int(7, 5)), "malformed"),
        ("elements of no type", with_initialiser(bare_tensor("w", 99, &[1])), "element_type"),
        ("an output of no type", typed(99), "element_type"),
        ("a loop for ever", with_loop("", &[], carry()), "unbounded_loop"),
        (
            "a loop of 2^63 rounds",
            with_loop("rounds", &[integers("rounds", &[], &[i64::MAX])], carry()),
            "unbounded_loop",
        ),
        ("a loop as long as the picture says", with_loop("mean", &[], carry()), "unbounded_loop"),
        ("a loop whose constant is none", Model::of(shadowed).bytes(), "unbounded_loop"),
        (
            "a thousand rounds of a thousand rounds",
            with_loop("rounds", &[integers("rounds", &[], &[1000])], loop_over("rounds", carry())),
            "unbounded_loop",
        ),
        (
            "a loop in a function",
            with_functions(vec![function("own", "f0", &[loop_over("x", carry())])]),
            "unbounded_loop",
        ),
        ("branches in branches", with_node(nested_ifs(200)), "too_deep"),
        ("types in types", Model::of(Graph { outputs: vec![deep_value], ..sound() }).bytes(), "too_deep"),
        (
            "sixty thousand nodes",
            Model::of(Graph { nodes: vec![node("Neg", &["mean"], &["o"]); 60_000], ..sound() }).bytes(),
            "too_many",
        ),
        (
            "sixty thousand tensors",
            Model::of(Graph { initialisers: vec![floats("w", &[1], &[0.0]); 60_000], ..sound() }).bytes(),
            "too_many",
        ),
        ("a quarter of a million names", Model::of(many_outputs).bytes(), "too_many"),
        (
            "a thousand functions",
            with_functions((0..1000).map(|i| function("own", &format!("f{i}"), &[])).collect()),
            "too_many",
        ),
        ("functions that double, sixty times", with_functions(doubling), "too_many"),
        (
            "a function that calls itself",
            with_functions(vec![function("own", "f0", &[call("f0")])]),
            "recursive_function",
        ),
        (
            "functions that call each other",
            with_functions(vec![function("own", "f0", &[call("f1")]), function("own", "f1", &[call("f0")])]),
            "recursive_function",
        ),
        (
            "a function for a standard operator",
            with_functions(vec![function("", "Mul", &[])]),
            "function_name",
        ),
        (
            "one function twice",
            with_functions(vec![function("own", "f0", &[]), function("own", "f0", &[])]),
            "function_name",
        ),
        (
            "training",
            Model::of(sound()).message().message(20, &Message::default().message(2, &graph)).0,
            "training",
        ),
        (
            "a name of two megabytes",
            with_node(node("Neg", &["mean"], &["o"]).bytes(3, vec![b'x'; 2 << 20])),
            "long_text",
        ),
        (
            "an operator that is no text",
            with_node(node("Neg", &["mean"], &["o"]).bytes(4, [0xff, 0xfe])),
            "not_text",
        ),
        (
            "a thousand entries of metadata",
            Model::of(sound()).with_metadata(&(0..1000).map(|_| ("key", "text")).collect::<Vec<_>>()).bytes(),
            "too_many",
        ),
    ]
}

#[test]
fn a_sound_model_is_taken() {
    let summary = check(&Model::of(sound()).bytes()).unwrap();
    assert_eq!((summary.nodes, summary.opset, summary.ir_version), (3, 17, 8));
    assert_eq!(summary.parameters, 3 + 6 * 84);
    assert_eq!(summary.inputs[0].shape, Some(vec![Some(1), Some(3), Some(64), Some(64)]));
    assert_eq!(summary.operators["Mul"], 1);
    // What exporters do: loops of known length, branches, functions, imports that nothing uses.
    check(&with_loop("rounds", &[integers("rounds", &[], &[100])], carry())).unwrap();
    check(&with_node(if_with(&branch(node("Neg", &["mean"], &["branch"]))))).unwrap();
    check(&with_functions(vec![function("own", "f0", &[node("Neg", &["x"], &["y"])])])).unwrap();
    let mut model = Model::of(sound());
    model.opsets.push(("com.microsoft".to_owned(), 1));
    check(&model.bytes()).unwrap();
}

#[test]
fn an_initialiser_among_the_inputs_is_none() {
    let mut graph = sound();
    graph.inputs.push(value("rows", FLOAT, &[1, 6, 84]));
    let summary = check(&Model::of(graph).bytes()).unwrap();
    assert_eq!(summary.inputs.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["images"]);
}

#[test]
fn every_hostile_file_is_refused_with_its_code_in_little_memory() {
    for (what, file, code) in corpus() {
        let (checked, peak) = peak_of(|| check(&file));
        // Names and nodes are counted before they are kept; the file itself was there before.
        assert!(peak < 32 << 20, "{what} took {peak} bytes");
        let error = checked.map(|_| ()).expect_err(what);
        assert_eq!(error.code(), code, "{what}: {error}");
    }
}

#[test]
fn a_refusal_says_where() {
    let file = with_node(if_with(&Graph {
        initialisers: vec![external("secret", "../../../../etc/passwd")],
        ..branch(node("Neg", &["secret"], &["branch"]))
    }));
    let text = check(&file).unwrap_err().to_string();
    for part in ["\"If to chosen\" (If)", "then_branch", "../../../../etc/passwd"] {
        assert!(text.contains(part), "{text} does not say {part}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_or_whole() {
    let mut model = Model::of(sound()).with_metadata(&[("names", "{0: 'a'}")]);
    model.graph.nodes.push(if_with(&branch(node("Neg", &["mean"], &["branch"]))));
    let file = model.bytes();
    let taken: Vec<usize> = (0..file.len()).filter(|&end| check(&file[..end]).is_ok()).collect();
    // After the operator sets come only words about the model.
    assert!(taken.len() <= 1, "{taken:?} of {}", file.len());
    assert!(taken.iter().all(|&end| end > file.len() - 30), "{taken:?} of {}", file.len());
}

#[test]
fn no_flipped_bit_makes_it_panic_or_hoard() {
    let mut graph = sound();
    graph.nodes.push(nested_ifs(3));
    graph.initialisers[1] = floats("rows", &[2, 2], &[0.5; 4]);
    graph.initialisers.push(integers("rounds", &[], &[7]));
    graph.nodes.push(loop_over("rounds", carry()));
    let mut model = Model::of(graph).with_metadata(&[("stride", "32")]);
    model.functions = vec![function("own", "f0", &[node("Neg", &["x"], &["y"])])];
    let file = model.bytes();
    let ((), peak) = peak_of(|| {
        for bit in 0..8 * file.len() {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = check(&flipped);
        }
        let mut random = StdRng::seed_from_u64(5);
        for _ in 0..20_000 {
            let mut mutated = file.clone();
            for _ in 0..random.random_range(1..8) {
                let at = random.random_range(0..mutated.len());
                match random.random_range(0..3) {
                    0 => mutated[at] = random.random(),
                    1 => drop(mutated.remove(at)),
                    _ => mutated.insert(at, random.random()),
                }
            }
            let _ = check(&mutated);
        }
    });
    assert!(peak < 8 << 20, "{peak} bytes for a file of {}", file.len());
}

#[test]
fn random_bytes_are_no_model() {
    let mut random = StdRng::seed_from_u64(7);
    for length in (0..2000).step_by(7) {
        let bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
        assert!(check(&bytes).is_err());
    }
}

// What follows runs in children.

/// Takes `onnx` in under tight limits.
fn admit(store: &Path, onnx: &[u8], program: &Path, limits: Limits) -> Result<Admitted, Refusal> {
    let intake = Intake { program: program.to_owned(), runtime: runtime_path(), limits };
    let provenance = Provenance::stated("a test", None);
    let candidate = Candidate { name: "m", onnx, wishes: Wishes::default(), provenance, picture: PICTURE };
    intake.admit(&candidate, &Store::open(store))
}

fn vigie() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_vigie"))
}

/// Enough for any sound model of these tests, on a busy machine.
const LIMITS: Limits = Limits { memory_bytes: 1 << 30, cpu_seconds: 20, wall_seconds: 200 };

/// What a model is refused with; nothing of it may be stored.
fn code_of(onnx: &[u8], limits: Limits) -> (&'static str, String) {
    check(onnx).unwrap_or_else(|error| panic!("it should get as far as the trial: {error}"));
    let folder = tempfile::tempdir().unwrap();
    let refusal = admit(folder.path(), onnx, &vigie(), limits).map(|_| ()).expect_err("it is hostile");
    assert!(Store::open(folder.path()).list().unwrap().is_empty());
    (refusal.code(), format!("{:#}", anyhow::Error::new(refusal)))
}

/// The sound graph with its output worked on by `nodes`, from `output` to `output0`.
fn ending_in(nodes: Vec<Message>, tensors: Vec<Message>) -> Vec<u8> {
    let mut graph = sound();
    graph.nodes[2] = node("Mul", &["flat", "rows"], &["output"]);
    graph.nodes.extend(nodes);
    graph.initialisers.extend(tensors);
    Model::of(graph).bytes()
}

#[test]
fn the_sound_model_passes_its_trial() {
    let folder = tempfile::tempdir().unwrap();
    let trial = admit(folder.path(), &Model::of(sound()).bytes(), &vigie(), LIMITS).unwrap().receipt.trial;
    assert!(trial.runs >= 5 && trial.p50_ms > 0.0);
    assert_eq!(trial.outputs[0].shape, [1, 6, 84]);
}

/// Every file that only its trial finds out, what it is, and its code.
pub fn trial_corpus() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    vec![
        ("an operator that does not exist", unknown_operator(), "not_loaded"),
        ("outputs that are no numbers", not_a_number(), "not_a_number"),
        ("32 gigabytes", memory_hog(), "out_of_memory"),
        ("ten thousand products", endless(), "cpu_time"),
        ("outputs that nothing reads", unread_outputs(), "unclear"),
    ]
}

fn unknown_operator() -> Vec<u8> {
    with_node(node("NoSuchThing", &["mean"], &["o"]))
}

#[test]
fn an_operator_that_does_not_exist_is_not_loaded() {
    let (code, message) = code_of(&unknown_operator(), LIMITS);
    assert!(code == "not_loaded" && message.contains("NoSuchThing"), "{code}: {message}");
}

fn not_a_number() -> Vec<u8> {
    let nodes =
        vec![node("Sub", &["output", "output"], &["zero"]), node("Div", &["zero", "zero"], &["output0"])];
    ending_in(nodes, vec![])
}

#[test]
fn outputs_that_are_no_numbers_are_told() {
    let (code, message) = code_of(&not_a_number(), LIMITS);
    assert!(code == "not_a_number" && message.contains("output0"), "{code}: {message}");
}

fn memory_hog() -> Vec<u8> {
    // A side of 2^33 that is known only when it runs: 32 gigabytes.
    let nodes = vec![
        node("Shape", &["output"], &["sides"]),
        node("ReduceProd", &["sides"], &["count"]).with_int("keepdims", 1),
        node("Mul", &["count", "many"], &["size"]),
        node("ConstantOfShape", &["size"], &["huge"]),
        node("ReduceMax", &["huge"], &["max"]).with_int("keepdims", 1),
        node("Add", &["output", "max"], &["output0"]),
    ];
    ending_in(nodes, vec![integers("many", &[1], &[1 << 24])])
}

#[test]
fn a_model_that_takes_all_memory_takes_the_childs() {
    let file = memory_hog();
    let ((code, message), peak) = peak_of(|| code_of(&file, LIMITS));
    assert_eq!(code, "out_of_memory", "{message}");
    assert!(peak < 64 << 20, "{peak} bytes were taken here");
}

fn endless() -> Vec<u8> {
    // Ten thousand products of matrices of 1024 by 1024, each from the one before.
    let body = Graph {
        nodes: vec![
            node("MatMul", &["carried", "carried"], &["carried_on"]),
            node("Identity", &["go_on"], &["goes_on"]),
        ],
        inputs: vec![
            value("round", INT64, &[]),
            value("go_on", 9, &[]),
            value("carried", FLOAT, &[1024, 1024]),
        ],
        outputs: vec![value("goes_on", 9, &[]), value("carried_on", FLOAT, &[1024, 1024])],
        ..Graph::default()
    };
    let nodes = vec![
        node("ReduceMax", &["output"], &["max"]).with_int("keepdims", 0),
        node("Expand", &["max", "square"], &["matrix"]),
        node("Loop", &["rounds", "", "matrix"], &["looped"]).with_graph("body", &body),
        node("ReduceMin", &["looped"], &["min"]).with_int("keepdims", 0),
        node("Add", &["output", "min"], &["output0"]),
    ];
    ending_in(nodes, vec![integers("rounds", &[], &[10_000]), integers("square", &[2], &[1024, 1024])])
}

#[test]
fn a_model_that_computes_without_end_is_ended() {
    let file = endless();
    let (code, message) = code_of(&file, Limits { cpu_seconds: 2, ..LIMITS });
    assert_eq!(code, "cpu_time", "{message}");
}

fn unread_outputs() -> Vec<u8> {
    let mut graph = sound();
    graph.nodes.push(node("Neg", &["output0"], &["more"]));
    graph.outputs.push(value("more", FLOAT, &[1, 6, 84]));
    Model::of(graph).bytes()
}

#[test]
fn outputs_that_nothing_reads_are_unclear_and_shown() {
    let (code, message) = code_of(&unread_outputs(), LIMITS);
    assert_eq!(code, "unclear");
    for part in ["output0 [1, 6, 84], more [1, 6, 84]", "--head"] {
        assert!(message.contains(part), "{message} does not say {part}");
    }
}

#[test]
fn inputs_that_no_picture_fits_are_unclear() {
    for inputs in [
        vec![value("images", FLOAT, &[8, 3, 64, 64])],
        vec![value("images", FLOAT, &[1, 1, 64, 64])],
        vec![value("images", FLOAT, &[1, 3, 8192, 8192])],
        vec![value("images", FLOAT, &[1, 3, 64, 64]), value("more", FLOAT, &[1])],
        vec![],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = Model::of(Graph { inputs, ..sound() }).bytes();
        let refusal = admit(folder.path(), &file, &vigie(), LIMITS).map(|_| ()).expect_err("no picture fits");
        assert_eq!(refusal.code(), "unclear", "{refusal}");
    }
}

/// A program that stands in for a child that was taken over.
fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("child");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn whatever_becomes_of_the_child_is_a_refusal() {
    let endless = r#"{"report":{"load_ms":1,"first_run_ms":1,"p50_ms":1,"runs":5,"peak_bytes":1,"findings":[],"picture":"","outputs":[{"name":"o","shape":[18446744073709551615,2]}]}}"#;
    for (text, code) in [
        ("exit 3", "crashed"),
        ("kill -SEGV $$", "crashed"),
        ("kill -KILL $$", "crashed"),
        ("kill -XCPU $$", "cpu_time"),
        ("exec sleep 1000", "wall_time"),
        ("yes", "crashed"),
        ("echo '{}'", "no_answer"),
        ("cat > /dev/null", "no_answer"),
        ("echo 'memory allocation of 99 bytes failed' >&2; kill -ABRT $$", "out_of_memory"),
        (&format!("echo '{endless}'"), "no_answer"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let child = script(folder.path(), text);
        let limits = Limits { wall_seconds: 5, ..LIMITS };
        let store = folder.path().join("models");
        let (refusal, peak) = peak_of(|| admit(&store, &Model::of(sound()).bytes(), &child, limits));
        let refusal = refusal.map(|_| ()).expect_err(text);
        assert_eq!(refusal.code(), code, "{text}: {refusal}");
        assert!(peak < 64 << 20, "{text}: {peak} bytes");
    }
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    let refusal =
        admit(folder.path(), &Model::of(sound()).bytes(), &nowhere, LIMITS).map(|_| ()).unwrap_err();
    assert_eq!(refusal.code(), "trial_not_started");
}

/// The child's chains, tried in a process of their own: this test runs itself a second time.
#[test]
fn a_confined_process_can_open_connect_and_start_nothing() {
    const MARK: &str = "VIGIE_TEST_CONFINED";
    if std::env::var_os(MARK).is_none() {
        let name = "hostile::a_confined_process_can_open_connect_and_start_nothing";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let done = again.args(["--exact", name, "--nocapture"]).env(MARK, "1").output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success() && said.contains("was confined"), "{said}");
        return;
    }
    let own = std::env::current_exe().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    confine::limit(8 << 30, 60).unwrap();
    confine::lock_down().unwrap();
    let denied = |what: &str, outcome: std::io::Result<()>| {
        assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "{what}");
    };
    denied("reading", std::fs::read("/etc/hostname").map(drop));
    denied("writing", std::fs::write("/tmp/vigie-confined", b""));
    denied("removing", std::fs::remove_file(&own));
    denied("listing", std::fs::read_dir("/").map(drop));
    denied("connecting", std::net::TcpStream::connect(address).map(drop));
    denied("datagrams", std::net::UdpSocket::bind("127.0.0.1:0").map(drop));
    denied("a process", std::process::Command::new(&own).arg("--list").status().map(drop));
    denied("a thread", std::thread::Builder::new().spawn(|| ()).map(drop));
    let mut memory = Vec::<u8>::new();
    assert!(memory.try_reserve_exact(16 << 30).is_err(), "more than the address space");
    println!("it was confined");
}
