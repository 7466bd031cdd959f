use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use super::*;
use crate::inference::tensor::{Outputs, Tensor};

const MODEL: ModelId = ModelId(1);

/// Adds `bias` to every value; the first value chooses to fail or panic. Waits at `gate` first.
struct Adder {
    bias: f32,
    gate: Option<Arc<Barrier>>,
}

impl Engine for Adder {
    fn run(&mut self, input: &Tensor) -> Result<Outputs, EngineError> {
        if let Some(gate) = &self.gate {
            gate.wait();
        }
        let values = input.as_f32().expect("tests send f32");
        match values[0] {
            -1.0 => Err(EngineError::Run { model: "adder".into(), reason: "told to".into() }),
            -2.0 => panic!("told to panic"),
            _ => {
                let sum = values.iter().map(|v| v + self.bias).collect();
                Ok(Outputs(vec![("sum".into(), Tensor::f32(&input.shape, sum))]))
            }
        }
    }
}

/// Tells when it is freed.
struct Tell(std::sync::mpsc::SyncSender<()>);
impl Engine for Tell {
    fn run(&mut self, _: &Tensor) -> Result<Outputs, EngineError> {
        Ok(Outputs::default())
    }
}
impl Drop for Tell {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[derive(Default)]
struct Seen {
    /// Rows, requests and success of each batch.
    runs: Mutex<Vec<(usize, usize, bool)>>,
    skipped: AtomicU64,
}

impl Observer for Seen {
    fn ran(&self, run: &BatchRun<'_>) {
        self.runs.lock().unwrap().push((run.batch_size, run.queued.len(), run.succeeded));
    }
    fn skipped(&self, count: u64) {
        self.skipped.fetch_add(count, Ordering::Relaxed);
    }
}

fn adders(count: usize, bias: f32, gate: Option<&Arc<Barrier>>) -> Vec<Box<dyn Engine>> {
    (0..count).map(|_| Box::new(Adder { bias, gate: gate.cloned() }) as Box<dyn Engine>).collect()
}

fn row(value: f32) -> Tensor {
    Tensor::f32(&[1, 2], vec![value, value])
}

fn values(completed: &Completed) -> Vec<f32> {
    completed.outputs.find("sum").unwrap().as_f32().unwrap().to_vec()
}

fn start(lanes: usize, observer: Arc<dyn Observer>) -> Service {
    Service::start(Options { lanes, ..Options::default() }, observer).unwrap()
}

#[test]
fn answers_each_asker_with_its_own_rows() {
    let seen = Arc::new(Seen::default());
    let service = start(1, seen.clone());
    let gate = Arc::new(Barrier::new(2));
    service.install(MODEL, adders(1, 1.0, Some(&gate)), 8).unwrap();
    let handle = service.handle();
    // The first request holds the lane while the others gather behind it.
    let first = handle.submit(MODEL, 0, row(0.0)).unwrap();
    while handle.waiting() > 0 {
        std::thread::yield_now();
    }
    let tickets: Vec<Ticket> = (1..=3).map(|v| handle.submit(MODEL, v, row(v as f32)).unwrap()).collect();
    let wide = handle.submit(MODEL, 9, Tensor::f32(&[2, 2], vec![5.0, 6.0, 7.0, 8.0])).unwrap();
    gate.wait();
    assert_eq!(values(&first.wait().unwrap()), [1.0, 1.0]);
    gate.wait();
    for (index, ticket) in tickets.into_iter().enumerate() {
        let done = ticket.wait().unwrap();
        assert_eq!((values(&done), done.batch_size), (vec![index as f32 + 2.0; 2], 5));
    }
    assert_eq!(values(&wide.wait().unwrap()), [6.0, 7.0, 8.0, 9.0]);
    assert_eq!(*seen.runs.lock().unwrap(), [(1, 1, true), (5, 4, true)]);
}

#[test]
fn two_lanes_run_at_the_same_time() {
    let service = start(2, Arc::new(()));
    let gate = Arc::new(Barrier::new(2));
    service.install(MODEL, adders(2, 1.0, Some(&gate)), 1).unwrap();
    let handle = service.handle();
    let tickets = [1, 2].map(|asker| handle.submit(MODEL, asker, row(1.0)).unwrap());
    // Each engine waits for the other: with one lane at work this would never end.
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

#[test]
fn a_failing_engine_fails_its_batch_and_keeps_its_lane() {
    let service = start(1, Arc::new(()));
    service.install(MODEL, adders(1, 1.0, None), 1).unwrap();
    let handle = service.handle();
    for (value, reason) in [(-1.0, "told to"), (-2.0, "told to panic"), (-2.0, "told to panic")] {
        let error = handle.submit(MODEL, 1, row(value)).unwrap().wait().unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert_eq!(values(&handle.submit(MODEL, 1, row(1.0)).unwrap().wait().unwrap()), [2.0, 2.0]);
}

#[test]
fn outputs_that_lost_the_batch_are_an_error() {
    struct Mean;
    impl Engine for Mean {
        fn run(&mut self, _: &Tensor) -> Result<Outputs, EngineError> {
            Ok(Outputs(vec![("mean".into(), Tensor::f32(&[1], vec![0.0]))]))
        }
    }
    let (floats, bytes) = (row(0.0), Tensor::u8(&[1, 2], vec![0, 0]));
    let run = |first: &Tensor, second: &Tensor| {
        let mut outputs = [Outputs::default(), Outputs::default()];
        let [a, b] = &mut outputs;
        let parts = &mut [Part { input: first, outputs: a }, Part { input: second, outputs: b }];
        Mean.run_batch(parts).unwrap_err().to_string()
    };
    let error = run(&floats, &floats);
    assert!(error.contains("[1] for a batch of 2"), "{error}");
    let error = run(&floats, &bytes);
    assert!(error.contains("different element types"), "{error}");
}

#[test]
fn swaps_and_removes_models_between_batches() {
    let service = start(2, Arc::new(()));
    let handle = service.handle();
    let ask = |model| handle.submit(model, 1, row(0.0)).and_then(Ticket::wait).map(|done| values(&done)[0]);
    assert!(matches!(ask(MODEL), Err(EngineError::NotInstalled { .. })));
    assert!(service.install(MODEL, adders(1, 1.0, None), 1).is_err(), "one engine for two lanes");
    for bias in [1.0, 2.0, 3.0] {
        service.install(MODEL, adders(2, bias, None), 1).unwrap();
        for _ in 0..20 {
            assert_eq!(ask(MODEL).unwrap(), bias);
        }
    }
    service.install(ModelId(2), adders(2, 9.0, None), 1).unwrap();
    service.remove(MODEL);
    assert!(matches!(ask(MODEL), Err(EngineError::NotInstalled { .. })));
    assert_eq!(ask(ModelId(2)).unwrap(), 9.0);
}

#[test]
fn a_removed_model_is_freed_on_every_lane() {
    let service = start(3, Arc::new(()));
    let (sender, freed) = sync_channel(3);
    let engines = (0..3).map(|_| Box::new(Tell(sender.clone())) as Box<dyn Engine>).collect();
    service.install(MODEL, engines, 1).unwrap();
    let tickets: Vec<_> =
        (0..9).map(|asker| service.handle().submit(MODEL, asker, row(0.0)).unwrap()).collect();
    service.remove(MODEL);
    for ticket in tickets {
        ticket.wait().expect("what waited still runs");
    }
    for _ in 0..3 {
        freed.recv().unwrap();
    }
}

#[test]
fn the_departed_do_not_keep_a_removed_model() {
    let service = start(1, Arc::new(()));
    let gate = Arc::new(Barrier::new(2));
    let (sender, freed) = sync_channel(3);
    service.install(MODEL, vec![Box::new(Tell(sender))], 1).unwrap();
    service.install(ModelId(2), adders(1, 1.0, Some(&gate)), 1).unwrap();
    let handle = service.handle();
    let first = handle.submit(ModelId(2), 0, row(0.0)).unwrap();
    while handle.waiting() > 0 {
        std::thread::yield_now();
    }
    let departed = handle.submit(MODEL, 1, row(0.0)).unwrap();
    service.remove(MODEL);
    drop(departed);
    gate.wait();
    first.wait().unwrap();
    freed.recv().unwrap();
}

#[test]
fn a_dropped_ticket_withdraws_its_request() {
    let seen = Arc::new(Seen::default());
    let service = start(1, seen.clone());
    let gate = Arc::new(Barrier::new(2));
    service.install(MODEL, adders(1, 1.0, Some(&gate)), 1).unwrap();
    let handle = service.handle();
    let first = handle.submit(MODEL, 0, row(0.0)).unwrap();
    while handle.waiting() > 0 {
        std::thread::yield_now();
    }
    drop(handle.submit(MODEL, 1, row(1.0)).unwrap());
    let last = handle.submit(MODEL, 2, row(2.0)).unwrap();
    gate.wait();
    first.wait().unwrap();
    gate.wait();
    assert_eq!(values(&last.wait().unwrap()), [3.0, 3.0]);
    drop(service);
    assert_eq!((seen.runs.lock().unwrap().len(), seen.skipped.load(Ordering::Relaxed)), (2, 1));
}

#[test]
fn stopping_tells_those_who_wait() {
    let service = start(1, Arc::new(()));
    let gate = Arc::new(Barrier::new(2));
    service.install(MODEL, adders(1, 1.0, Some(&gate)), 1).unwrap();
    let handle = service.handle();
    let running = handle.submit(MODEL, 0, row(0.0)).unwrap();
    while handle.waiting() > 0 {
        std::thread::yield_now();
    }
    let waiting = handle.submit(MODEL, 1, row(1.0)).unwrap();
    let stopper = std::thread::spawn(move || drop(service));
    while !handle.shared.lock().is_stopping {
        std::thread::yield_now();
    }
    assert!(matches!(handle.submit(MODEL, 2, row(2.0)), Err(EngineError::Stopped)));
    gate.wait();
    running.wait().expect("the running batch is finished");
    assert!(matches!(waiting.wait(), Err(EngineError::Stopped)));
    stopper.join().unwrap();
}

#[test]
fn a_full_queue_refuses() {
    let limits = Limits { per_asker: 1, total: 8 };
    let service = Service::start(Options { limits, ..Options::default() }, Arc::new(())).unwrap();
    let gate = Arc::new(Barrier::new(2));
    service.install(MODEL, adders(1, 1.0, Some(&gate)), 1).unwrap();
    let handle = service.handle();
    let running = handle.submit(MODEL, 0, row(0.0)).unwrap();
    while handle.waiting() > 0 {
        std::thread::yield_now();
    }
    let waiting = handle.submit(MODEL, 0, row(0.0)).unwrap();
    assert!(matches!(handle.submit(MODEL, 0, row(0.0)), Err(EngineError::Overloaded)));
    gate.wait();
    gate.wait();
    running.wait().unwrap();
    waiting.wait().unwrap();
}

#[test]
fn slowdown_lengthens_the_run() {
    struct Busy;
    impl Engine for Busy {
        fn run(&mut self, _: &Tensor) -> Result<Outputs, EngineError> {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(2) {}
            Ok(Outputs::default())
        }
    }
    let service = Service::start(Options { slowdown: 4.0, ..Options::default() }, Arc::new(())).unwrap();
    service.install(MODEL, vec![Box::new(Busy)], 1).unwrap();
    let done = service.handle().submit(MODEL, 0, row(0.0)).unwrap().wait().unwrap();
    assert!(done.ran >= Duration::from_millis(8), "{:?}", done.ran);
}

#[test]
fn a_task_awaits_its_answer() {
    let service = start(1, Arc::new(()));
    service.install(MODEL, adders(1, 1.0, None), 8).unwrap();
    let handle = service.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answered = runtime.block_on(async {
        let tickets = (0..20).map(|value| handle.submit(MODEL, 1 + value % 3, row(value as f32)).unwrap());
        let mut answers = Vec::new();
        for ticket in tickets.collect::<Vec<_>>() {
            answers.push(values(&ticket.await.unwrap())[0]);
        }
        answers
    });
    assert_eq!(answered, (1..=20).map(|value| value as f32).collect::<Vec<_>>());
    let ticket = handle.submit(MODEL, 1, row(-1.0)).unwrap();
    assert!(matches!(runtime.block_on(ticket), Err(EngineError::Run { .. })));
}

#[test]
fn an_engine_for_one_input_refuses_several() {
    let service = start(1, Arc::new(()));
    service.install(MODEL, adders(1, 1.0, None), 8).unwrap();
    let ask = Ask { others: vec![row(2.0)], ..Ask::of(MODEL, 1, row(1.0)) };
    assert!(matches!(service.handle().queue(ask).unwrap().wait(), Err(EngineError::Run { .. })));
    assert_eq!(service.handle().describe(MODEL), Some(Arc::default()));
    service.remove(MODEL);
    assert_eq!(service.handle().describe(MODEL), None);
}
