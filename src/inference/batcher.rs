//! Decides which requests run together, and when: a pure queue in front of the lanes.
//!
//! It owns what waits for the engines. A lane asks [`Batcher::poll`] and gets a batch to run, a time
//! to come back, or nothing. It takes the time as an argument, spawns nothing, never looks into a
//! tensor, and does not know which lanes exist.
//!
//! The rules, in order:
//! 1. A request whose asker has gone is never run; it is removed and counted.
//! 2. A batch holds requests of one model whose inputs differ in axis 0 only; one with several inputs runs alone.
//! 3. Askers take turns, so one that floods waits behind its own requests and not others behind it;
//!    an asker's own requests run in order, save those that it puts ahead. Those of an asker's first picture
//!    go before everybody's: who joins does not wait for all who are there.
//! 4. Askers in the background go when nobody else waits, and take turns like others once they have waited long.
//! 5. A batch runs when it is full or when its oldest request has waited `max_wait`.
//! 6. What would not fit the bounds is refused at the door.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The bit of an asker's number that puts it in the background: a file can wait, a person cannot.
pub const BACKGROUND: u64 = 1 << 62;

/// How long a request in the background lets others go first: so files go on, slowly, however many are live.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether an asker that waits since then has its turn before those in the background.
pub(super) fn goes_first(asker: u64, since: Instant, now: Instant) -> bool {
    asker & BACKGROUND == 0 || now.saturating_duration_since(since) >= PATIENCE
}

/// Names an installed model: one version of one model on this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(pub u32);

/// How many requests may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests waiting for one asker.
    pub per_asker: usize,
    /// Requests waiting in all.
    pub total: usize,
}

impl Default for Limits {
    /// A session has a few requests under way at most: faces, objects and one crop batch per picture.
    fn default() -> Self {
        Self { per_asker: 16, total: 1024 }
    }
}

/// How the requests of one model are batched.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Rows (axis 0) in one batch, at least 1; a single request with more rows runs alone.
    pub max_batch: usize,
    /// How long the oldest request may wait for company; 0 runs at once what is there.
    pub max_wait: Duration,
}

/// What travels with a request, as far as the batcher looks into it.
pub trait Payload {
    /// The input's shape, the batch on axis 0.
    fn shape(&self) -> &[usize];

    /// Whether it shares no batch: it has more inputs than the one.
    fn is_alone(&self) -> bool {
        false
    }

    /// Whether the asker no longer wants the answer.
    fn is_withdrawn(&self) -> bool;
}

/// One request for inference, waiting or about to run.
#[derive(Debug)]
pub struct Request<T> {
    pub model: ModelId,
    /// The session (or job) that asked; turns are taken between askers.
    pub asker: u64,
    /// Runs before the asker's other requests: it belongs to an older picture than they do.
    pub is_ahead: bool,
    /// Belongs to the asker's first picture.
    pub is_first: bool,
    /// The tensor and where the answer goes.
    pub payload: T,
}

impl<T: Payload> Request<T> {
    fn rows(&self) -> usize {
        self.payload.shape().first().copied().unwrap_or(1)
    }

    fn group(&self) -> Group<'_> {
        (self.model, self.payload.shape().get(1..).unwrap_or_default())
    }
}

/// What requests must have in common to share a batch: the model, and the shape without axis 0.
type Group<'a> = (ModelId, &'a [usize]);

/// A request with the time at which it was queued.
#[derive(Debug)]
pub struct Queued<T> {
    pub request: Request<T>,
    pub since: Instant,
}

/// Requests to run in one call of the engine, in this order.
#[derive(Debug)]
pub struct Batch<T> {
    pub model: ModelId,
    pub requests: Vec<Queued<T>>,
    /// The sum of the requests' axis 0.
    pub rows: usize,
}

/// What a lane is to do now.
#[derive(Debug)]
pub enum Poll<T> {
    Run(Batch<T>),
    /// Nothing is due; ask again at this time or after the next push.
    WakeAt(Instant),
    /// Nothing waits; ask again after the next push.
    Idle,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the inference queue is full")]
    Overloaded,
    #[error("model {} is not installed", .0.0)]
    UnknownModel(ModelId),
}

struct Model {
    policy: Policy,
    /// Takes no more requests; forgotten once those waiting have run.
    retired: bool,
}

/// The queue of one worker's inference requests.
pub struct Batcher<T> {
    limits: Limits,
    models: HashMap<ModelId, Model>,
    queues: HashMap<u64, VecDeque<Queued<T>>>,
    /// Every asker with a queue, once; the front has the next turn.
    turns: VecDeque<u64>,
    /// Empty queues, kept for the next askers.
    spare: Vec<VecDeque<Queued<T>>>,
    waiting: usize,
    skipped: u64,
}

impl<T: Payload> Batcher<T> {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            models: HashMap::new(),
            queues: HashMap::new(),
            turns: VecDeque::new(),
            spare: Vec::new(),
            waiting: 0,
            skipped: 0,
        }
    }

    /// Takes requests for `model` from now on, batched by `policy`.
    pub fn admit(&mut self, model: ModelId, policy: Policy) {
        self.models.insert(model, Model { policy, retired: false });
    }

    /// Refuses new requests for `model`; those waiting still run.
    pub fn retire(&mut self, model: ModelId) {
        if let Some(known) = self.models.get_mut(&model) {
            known.retired = true;
        }
        self.forget_drained();
    }

    /// Whether `model` may still come up in a batch.
    pub fn knows(&self, model: ModelId) -> bool {
        self.models.contains_key(&model)
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Requests removed, so far, because their asker had gone.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Queues `request`, or hands it back with the reason.
    pub fn push(&mut self, request: Request<T>, now: Instant) -> Result<(), (Refusal, Request<T>)> {
        if self.models.get(&request.model).is_none_or(|model| model.retired) {
            return Err((Refusal::UnknownModel(request.model), request));
        }
        let of_asker =
            |queues: &HashMap<u64, VecDeque<_>>| queues.get(&request.asker).map_or(0, VecDeque::len);
        let is_full = |batcher: &Self| {
            batcher.waiting >= batcher.limits.total || of_asker(&batcher.queues) >= batcher.limits.per_asker
        };
        if is_full(self) {
            // The departed must not keep the living out.
            self.skip_departed();
            if is_full(self) {
                return Err((Refusal::Overloaded, request));
            }
        }
        let asker = request.asker;
        let queue = self.queues.entry(asker).or_insert_with(|| {
            if request.is_first {
                self.turns.push_front(asker);
            } else {
                self.turns.push_back(asker);
            }
            self.spare.pop().unwrap_or_default()
        });
        let queued = Queued { request, since: now };
        if queued.request.is_ahead {
            queue.push_front(queued);
        } else {
            queue.push_back(queued);
        }
        self.waiting += 1;
        Ok(())
    }

    /// Removes and returns everything that waits.
    pub fn drain(&mut self) -> Vec<Queued<T>> {
        self.waiting = 0;
        self.turns.clear();
        let drained = self.queues.drain().flat_map(|(_, queue)| queue).collect();
        self.forget_drained();
        drained
    }

    /// Says what to run at `now`.
    pub fn poll(&mut self, now: Instant) -> Poll<T> {
        self.skip_departed();
        let is_patient = self.models.values().any(|model| !model.policy.max_wait.is_zero());
        let due_times = is_patient.then(|| self.due_times());
        let is_due = |queued: &Queued<T>| match &due_times {
            Some(times) => times[&queued.request.group()] <= now,
            None => true,
        };
        let (mut next, mut otherwise) = (None, None);
        for (turn, asker) in self.turns.iter().enumerate() {
            let queue = &self.queues[asker];
            let Some(position) = queue.iter().position(is_due) else { continue };
            if goes_first(*asker, queue[position].since, now) {
                next = Some((turn, position));
                break;
            }
            otherwise = otherwise.or(Some((turn, position)));
        }
        let next = next.or(otherwise);
        let wake_at = due_times.and_then(|times| times.values().min().copied());
        match (next, wake_at) {
            (Some((turn, position)), _) => Poll::Run(self.take(turn, position)),
            (None, Some(at)) => Poll::WakeAt(at),
            (None, None) => Poll::Idle,
        }
    }

    /// When each group that may share a batch is to run: not in the future once it is full.
    fn due_times(&self) -> HashMap<Group<'_>, Instant> {
        let mut groups: HashMap<Group<'_>, (usize, Instant)> = HashMap::new();
        for queued in self.queues.values().flatten() {
            let (rows, oldest) = groups.entry(queued.request.group()).or_insert((0, queued.since));
            *rows = rows.saturating_add(queued.request.rows());
            *oldest = queued.since.min(*oldest);
        }
        let mut due = HashMap::with_capacity(groups.len());
        for (group, (rows, oldest)) in groups {
            let policy = self.models[&group.0].policy;
            due.insert(group, if rows >= policy.max_batch { oldest } else { oldest + policy.max_wait });
        }
        due
    }

    /// Takes the request at `position` of the asker whose turn is `turn`, and what may join it.
    fn take(&mut self, turn: usize, position: usize) -> Batch<T> {
        let first = self.take_one(turn, position);
        let max_batch = self.models[&first.request.model].policy.max_batch;
        let model = first.request.model;
        let mut rows = first.request.rows();
        let mut requests = vec![first];
        // One request an asker a round, so that a batch is shared like everything else.
        while rows < max_batch && !requests[0].request.payload.is_alone() {
            let round: Vec<u64> = self.turns.iter().copied().collect();
            let before = requests.len();
            for asker in round {
                let fits = |queued: &Queued<T>| {
                    requests[0].request.group() == queued.request.group()
                        && !queued.request.payload.is_alone()
                        && queued.request.rows() <= max_batch.saturating_sub(rows)
                };
                let Some(position) = self.queues.get(&asker).and_then(|queue| queue.iter().position(fits))
                else {
                    continue;
                };
                let turn = self.turns.iter().position(|&at| at == asker).expect("a queued asker has a turn");
                let taken = self.take_one(turn, position);
                rows += taken.request.rows();
                requests.push(taken);
            }
            if requests.len() == before {
                break;
            }
        }
        self.forget_drained();
        Batch { model, requests, rows }
    }

    /// Removes one request and sends its asker to the back of the turns, if no more of a first picture follows.
    fn take_one(&mut self, turn: usize, position: usize) -> Queued<T> {
        let asker = self.turns.remove(turn).expect("the turn was just found");
        let queue = self.queues.get_mut(&asker).expect("an asker with a turn has a queue");
        let taken = queue.remove(position).expect("the position was just found");
        match queue.front() {
            None => self.spare.extend(self.queues.remove(&asker)),
            Some(next) if next.request.is_first => self.turns.push_front(asker),
            Some(_) => self.turns.push_back(asker),
        }
        self.waiting -= 1;
        taken
    }

    fn skip_departed(&mut self) {
        let before = self.waiting;
        self.queues.retain(|_, queue| {
            let had = queue.len();
            queue.retain(|queued| !queued.request.payload.is_withdrawn());
            self.waiting -= had - queue.len();
            !queue.is_empty()
        });
        if self.waiting != before {
            self.skipped += (before - self.waiting) as u64;
            self.turns.retain(|asker| self.queues.contains_key(asker));
            self.forget_drained();
        }
    }

    fn forget_drained(&mut self) {
        if !self.models.values().any(|model| model.retired) {
            return;
        }
        let queues = &self.queues;
        self.models.retain(|id, model| {
            !model.retired || queues.values().flatten().any(|queued| queued.request.model == *id)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A number in place of a tensor.
    struct Item {
        value: u32,
        shape: Vec<usize>,
        withdrawn: Arc<AtomicBool>,
    }

    impl Payload for Item {
        fn shape(&self) -> &[usize] {
            &self.shape
        }

        fn is_withdrawn(&self) -> bool {
            self.withdrawn.load(Ordering::Acquire)
        }
    }

    const SMALL: [usize; 3] = [1, 4, 4];
    const WIDE: [usize; 3] = [1, 4, 8];

    struct Bench {
        batcher: Batcher<Item>,
        start: Instant,
    }

    impl Bench {
        fn new(limits: Limits, policies: &[(u32, usize, u64)]) -> Self {
            let mut batcher = Batcher::new(limits);
            for &(model, max_batch, wait_ms) in policies {
                let max_wait = Duration::from_millis(wait_ms);
                batcher.admit(ModelId(model), Policy { max_batch, max_wait });
            }
            Self { batcher, start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn push(
            &mut self,
            ms: u64,
            model: u32,
            asker: u64,
            shape: &[usize],
            payload: u32,
        ) -> Result<Arc<AtomicBool>, Refusal> {
            self.push_as((false, false), ms, model, asker, shape, payload)
        }

        fn push_as(
            &mut self,
            (is_ahead, is_first): (bool, bool),
            ms: u64,
            model: u32,
            asker: u64,
            shape: &[usize],
            value: u32,
        ) -> Result<Arc<AtomicBool>, Refusal> {
            let withdrawn = Arc::new(AtomicBool::new(false));
            let payload = Item { value, shape: shape.to_vec(), withdrawn: withdrawn.clone() };
            let request = Request { model: ModelId(model), asker, is_ahead, is_first, payload };
            self.batcher.push(request, self.at(ms)).map_err(|(refusal, _)| refusal)?;
            Ok(withdrawn)
        }

        /// The payloads of the batch to run at `ms`; `Err(Some(ms))` to wake then, `Err(None)` when idle.
        fn poll(&mut self, ms: u64) -> Result<Vec<u32>, Option<u64>> {
            match self.batcher.poll(self.at(ms)) {
                Poll::Run(batch) => {
                    let rows: usize = batch.requests.iter().map(|queued| queued.request.rows()).sum();
                    assert_eq!(rows, batch.rows);
                    assert!(batch.requests.iter().all(|queued| queued.request.model == batch.model));
                    Ok(batch.requests.into_iter().map(|queued| queued.request.payload.value).collect())
                }
                Poll::WakeAt(at) => Err(Some(at.duration_since(self.start).as_millis() as u64)),
                Poll::Idle => Err(None),
            }
        }

        fn drain(&mut self, ms: u64) -> Vec<Vec<u32>> {
            std::iter::from_fn(|| self.poll(ms).ok()).collect()
        }
    }

    #[test]
    fn batches_join_one_model_and_one_shape() {
        // (model, asker, shape) of each request, in order → the batches, by index.
        type Case = (&'static str, usize, Vec<(u32, u64, [usize; 3])>, Vec<Vec<u32>>);
        let cases: Vec<Case> = vec![
            ("nothing", 4, vec![], vec![]),
            ("one", 4, vec![(0, 1, SMALL)], vec![vec![0]]),
            ("across askers", 4, vec![(0, 1, SMALL), (0, 2, SMALL), (0, 3, SMALL)], vec![vec![0, 1, 2]]),
            ("max_batch", 2, vec![(0, 1, SMALL), (0, 2, SMALL), (0, 3, SMALL)], vec![vec![0, 1], vec![2]]),
            ("two models", 4, vec![(0, 1, SMALL), (1, 2, SMALL), (0, 3, SMALL)], vec![vec![0, 2], vec![1]]),
            ("two shapes", 4, vec![(0, 1, SMALL), (0, 2, WIDE), (0, 3, SMALL)], vec![vec![0, 2], vec![1]]),
            (
                "rows count",
                4,
                vec![(0, 1, [3, 4, 4]), (0, 2, [2, 4, 4]), (0, 3, SMALL)],
                vec![vec![0, 2], vec![1]],
            ),
            ("too many rows run alone", 2, vec![(0, 1, [7, 4, 4]), (0, 2, SMALL)], vec![vec![0], vec![1]]),
            (
                "behind another model",
                4,
                vec![(1, 1, SMALL), (0, 1, SMALL), (0, 2, SMALL)],
                vec![vec![0], vec![2, 1]],
            ),
        ];
        for (name, max_batch, requests, expected) in cases {
            let mut bench = Bench::new(Limits::default(), &[(0, max_batch, 0), (1, max_batch, 0)]);
            for (index, (model, asker, shape)) in requests.iter().enumerate() {
                bench.push(0, *model, *asker, shape, index as u32).expect(name);
            }
            assert_eq!(bench.drain(0), expected, "{name}");
            assert!(bench.batcher.is_empty(), "{name}");
        }
    }

    #[test]
    fn waits_for_company_no_longer_than_max_wait() {
        let mut bench = Bench::new(Limits::default(), &[(0, 3, 10)]);
        assert_eq!(bench.poll(0), Err(None));
        bench.push(5, 0, 1, &SMALL, 0).unwrap();
        assert_eq!(bench.poll(5), Err(Some(15)));
        bench.push(8, 0, 2, &SMALL, 1).unwrap();
        assert_eq!(bench.poll(14), Err(Some(15)), "the oldest decides");
        assert_eq!(bench.poll(15), Ok(vec![0, 1]));
        for index in 2..5 {
            bench.push(20, 0, index, &SMALL, index as u32).unwrap();
        }
        assert_eq!(bench.poll(20), Ok(vec![2, 3, 4]), "a full batch does not wait");
        assert_eq!(bench.poll(20), Err(None));
    }

    #[test]
    fn a_waiting_model_does_not_hold_up_a_ready_one() {
        let mut bench = Bench::new(Limits::default(), &[(0, 8, 10), (1, 1, 0)]);
        bench.push(0, 0, 1, &SMALL, 0).unwrap();
        bench.push(0, 1, 1, &SMALL, 1).unwrap();
        assert_eq!(bench.poll(0), Ok(vec![1]));
        assert_eq!(bench.poll(0), Err(Some(10)));
    }

    #[test]
    fn the_background_goes_when_nobody_else_waits_or_after_a_while() {
        let mut bench = Bench::new(Limits { per_asker: 100, total: 1000 }, &[(0, 1, 0)]);
        let file = BACKGROUND + 1;
        bench.push(0, 0, file, &SMALL, 100).unwrap();
        assert_eq!(bench.poll(0), Ok(vec![100]), "alone it does not wait");
        bench.push(0, 0, file, &SMALL, 101).unwrap();
        bench.push(0, 0, file, &SMALL, 102).unwrap();
        for index in 0..4 {
            bench.push(1, 0, 1, &SMALL, index).unwrap();
            bench.push(1, 0, 2, &SMALL, 10 + index).unwrap();
        }
        assert_eq!([bench.poll(1), bench.poll(2), bench.poll(999)].map(Result::unwrap), [[0], [10], [1]]);
        let turns = std::iter::from_fn(|| bench.poll(1000).ok());
        assert_eq!(turns.flatten().collect::<Vec<_>>(), [101, 11, 2, 102, 12, 3, 13], "then it takes turns");
    }

    #[test]
    fn askers_take_turns() {
        let mut bench = Bench::new(Limits { per_asker: 100, total: 1000 }, &[(0, 1, 0)]);
        for index in 0..50 {
            bench.push(0, 0, 1, &SMALL, index).unwrap();
        }
        bench.push(1, 0, 2, &SMALL, 100).unwrap();
        bench.push(1, 0, 3, &SMALL, 200).unwrap();
        bench.push(1, 0, 2, &SMALL, 101).unwrap();
        let order: Vec<u32> = bench.drain(1).into_iter().flatten().take(6).collect();
        assert_eq!(order, [0, 100, 200, 1, 101, 2]);
    }

    #[test]
    fn an_older_picture_goes_ahead_of_its_own_asker_only() {
        let mut bench = Bench::new(Limits::default(), &[(0, 1, 0)]);
        bench.push(0, 0, 1, &SMALL, 10).unwrap();
        bench.push(0, 0, 1, &SMALL, 11).unwrap();
        bench.push(0, 0, 2, &SMALL, 20).unwrap();
        bench.push_as((true, false), 0, 0, 2, &SMALL, 21).unwrap();
        let order: Vec<u32> = bench.drain(0).into_iter().flatten().collect();
        assert_eq!(order, [10, 21, 11, 20]);
    }

    #[test]
    fn a_first_picture_goes_before_everybodys() {
        let mut bench = Bench::new(Limits::default(), &[(0, 1, 0)]);
        for asker in 1..4 {
            bench.push(0, 0, asker, &SMALL, asker as u32).unwrap();
        }
        for value in [90, 91] {
            bench.push_as((false, true), 0, 0, 9, &SMALL, value).unwrap();
        }
        bench.push(0, 0, 9, &SMALL, 92).unwrap();
        assert_eq!(bench.drain(0).concat(), [90, 91, 1, 2, 3, 92]);
    }

    #[test]
    fn a_batch_is_shared_between_askers() {
        let mut bench = Bench::new(Limits::default(), &[(0, 4, 0)]);
        for index in 0..6 {
            bench.push(0, 0, 1, &SMALL, index).unwrap();
        }
        bench.push(0, 0, 2, &SMALL, 10).unwrap();
        bench.push(0, 0, 2, &SMALL, 11).unwrap();
        assert_eq!(bench.poll(0), Ok(vec![0, 10, 1, 11]));
    }

    #[test]
    fn serves_everyone_equally_under_a_flood() {
        // A minute of 100 runs a second: one asker always full, nine asking ten times a second.
        let mut bench = Bench::new(Limits { per_asker: 8, total: 256 }, &[(0, 1, 0)]);
        let mut served = [0u32; 10];
        let mut longest = 0;
        let mut asked_at = [0u64; 10];
        for ms in (0..60_000).step_by(10) {
            while bench.push(ms, 0, 0, &SMALL, 0).is_ok() {}
            if ms % 100 == 0 {
                for asker in 1..10u64 {
                    bench.push(ms, 0, asker, &SMALL, asker as u32).unwrap();
                    asked_at[asker as usize] = ms;
                }
            }
            let asker = bench.poll(ms).unwrap()[0] as usize;
            served[asker] += 1;
            if asker > 0 {
                longest = longest.max(ms - asked_at[asker]);
            }
        }
        assert_eq!(served[1..], [600; 9], "nobody lost a request to the flood");
        assert!(longest <= 100, "waited {longest} ms");
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let mut bench = Bench::new(Limits { per_asker: 2, total: 3 }, &[(0, 1, 0)]);
        let first = bench.push(0, 0, 1, &SMALL, 0).unwrap();
        bench.push(0, 0, 1, &SMALL, 1).unwrap();
        assert_eq!(bench.push(0, 0, 1, &SMALL, 2).unwrap_err(), Refusal::Overloaded);
        bench.push(0, 0, 2, &SMALL, 3).unwrap();
        assert_eq!(bench.push(0, 0, 3, &SMALL, 4).unwrap_err(), Refusal::Overloaded);
        assert_eq!(bench.push(0, 9, 3, &SMALL, 4).unwrap_err(), Refusal::UnknownModel(ModelId(9)));
        first.store(true, Ordering::Release);
        bench.push(0, 0, 3, &SMALL, 5).expect("the departed gave up their place");
        assert_eq!(bench.drain(0), [[1], [3], [5]]);
        assert_eq!(bench.batcher.skipped(), 1);
    }

    #[test]
    fn skips_the_departed() {
        let mut bench = Bench::new(Limits::default(), &[(0, 4, 5)]);
        let gone: Vec<_> =
            (0..3).map(|asker| bench.push(0, 0, asker, &SMALL, asker as u32).unwrap()).collect();
        bench.push(1, 0, 7, &SMALL, 7).unwrap();
        gone[0].store(true, Ordering::Release);
        gone[2].store(true, Ordering::Release);
        assert_eq!(bench.poll(4), Err(Some(5)), "no longer full");
        assert_eq!(bench.poll(5), Ok(vec![1, 7]));
        assert_eq!(bench.batcher.skipped(), 2);
        gone[1].store(true, Ordering::Release);
        assert_eq!((bench.poll(9), bench.batcher.skipped()), (Err(None), 2));
    }

    #[test]
    fn a_retired_model_finishes_what_waits() {
        let mut bench = Bench::new(Limits::default(), &[(0, 1, 0), (1, 1, 0)]);
        bench.push(0, 0, 1, &SMALL, 0).unwrap();
        bench.batcher.retire(ModelId(0));
        bench.batcher.retire(ModelId(1));
        assert!(bench.batcher.knows(ModelId(0)) && !bench.batcher.knows(ModelId(1)));
        assert_eq!(bench.push(0, 0, 1, &SMALL, 1).unwrap_err(), Refusal::UnknownModel(ModelId(0)));
        assert_eq!(bench.poll(0), Ok(vec![0]));
        assert!(!bench.batcher.knows(ModelId(0)));
    }

    #[test]
    fn drains_everything() {
        let mut bench = Bench::new(Limits::default(), &[(0, 1, 50)]);
        for asker in 0..5 {
            bench.push(0, 0, asker, &SMALL, 0).unwrap();
        }
        assert_eq!(bench.batcher.drain().len(), 5);
        assert_eq!((bench.batcher.len(), bench.poll(100)), (0, Err(None)));
    }
}
