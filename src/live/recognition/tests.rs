use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::thread::JoinHandle;

use tokio::sync::broadcast;

use super::*;
use crate::frame::I420Buffer;
use crate::inference::batcher::ModelId;
use crate::inference::engine::Engine;
use crate::inference::service::{Options, Service};
use crate::inference::tensor::{Outputs, Tensor, TensorData};
use crate::live::settings::TaskSwitches;
use crate::models::manifest::{Fit, Head, Input, InputFormat, Manifest, Provenance, Task, Thresholds};
use crate::pipeline::recognise::{Model, ModelSet};

const OBJECTS: ModelId = ModelId(0);

/// Which pictures the engines have begun with, and which they may end.
#[derive(Default)]
struct Stage {
    state: Mutex<(Vec<u8>, BTreeSet<u8>)>,
    changed: Condvar,
}

impl Stage {
    fn wait_for(&self, is_so: impl Fn(&(Vec<u8>, BTreeSet<u8>)) -> bool) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| !is_so(state)).unwrap());
    }

    fn has_begun(&self, picture: u8) {
        self.wait_for(|(begun, _)| begun.contains(&picture));
    }

    fn let_end(&self, pictures: &[u8]) {
        self.state.lock().unwrap().1.extend(pictures);
        self.changed.notify_all();
    }

    fn begun(&self) -> Vec<u8> {
        self.state.lock().unwrap().0.clone()
    }
}

/// Finds nothing, and takes as long as the stage says; a picture's number is how bright it is.
struct Held(Arc<Stage>);

impl Engine for Held {
    fn run(&mut self, input: &Tensor) -> Result<Outputs, EngineError> {
        let TensorData::U8(rgb) = &input.data else { panic!("the manifest says u8") };
        let number = rgb[0] / 20;
        self.0.state.lock().unwrap().0.push(number);
        self.0.changed.notify_all();
        self.0.wait_for(|(_, may_end)| may_end.contains(&number));
        Ok(Outputs(vec![("detections".into(), Tensor::f32(&[1, 0, 6], vec![]))]))
    }
}

fn picture(number: u8) -> Picture {
    let mut canvas = I420Buffer::black(64, 64);
    // Limited range, brought to 20 levels a number.
    canvas.plane_mut(0).0.fill(16 + ((f32::from(number) * 20.0 + 10.0) * 219.0 / 255.0) as u8);
    canvas.into_picture(u32::from(number) * 3000, Instant::now())
}

struct Session {
    pictures: Latest<Timed>,
    reports: broadcast::Receiver<Arc<str>>,
    thread: JoinHandle<()>,
    _settings: watch::Sender<Settings>,
}

impl Session {
    fn start(service: &Service, asker: u64) -> Self {
        let models = ModelSet::default();
        let input = Input {
            name: "input".into(),
            format: InputFormat::RgbU8Nhwc,
            height: None,
            batch: None,
            size_input: None,
            size: 32,
            fit: Fit::TopLeft { fill: 0, multiple: 32 },
        };
        let provenance = Provenance {
            source: "test".into(),
            upstream: "test".into(),
            licence: "test".into(),
            licence_note: String::new(),
        };
        let manifest = Manifest {
            name: "held".into(),
            version: 1,
            task: Task::Objects,
            labels: vec!["thing".into()],
            input,
            head: Head::Centernet,
            thresholds: Thresholds { score: 0.5, iou: 0.5, unsure: None, min_width: 0.0 },
            provenance,
            trial: None,
            sha256: String::new(),
        };
        models.replace(Model::new(OBJECTS, manifest));
        let tasks = TaskSwitches { faces: false, gender: false, objects: true, text: false };
        let settings = watch::Sender::new(Settings { tasks, max_rate: 10_000.0, ..Settings::default() });
        let audience = Audience::new(0);
        let reports = audience.reports();
        let pictures = Latest::default();
        let recognition = Recognition {
            pictures: pictures.clone(),
            recogniser: Recogniser::new(service.handle(), models, asker),
            settings: settings.subscribe(),
            readers: None,
            tracks: watch::Sender::new(Tracks::default()),
            audience,
            notices: mpsc::channel(1).0,
            feedback: Feedback::default(),
            metrics: Arc::new(Metrics::new()),
        };
        let thread = std::thread::spawn(move || recognition.run());
        Self { pictures, reports, thread, _settings: settings }
    }

    /// The numbers of the next `count` pictures that are reported.
    fn reported(&mut self, count: usize) -> Vec<u32> {
        let read = |text: Arc<str>| serde_json::from_str::<FrameReport>(&text).unwrap().rtp_timestamp / 3000;
        (0..count).map(|_| read(self.reports.blocking_recv().unwrap())).collect()
    }

    fn put(&self, number: u8) {
        self.pictures.put((picture(number), Duration::from_millis(u64::from(number) * 100 / 3)));
    }

    fn end(self) {
        self.pictures.close();
        self.thread.join().unwrap();
    }
}

/// Has a session's first picture recognised: for that it has a place besides the others.
fn settle(stage: &Stage, session: &mut Session) {
    const FIRST: u8 = 9;
    stage.let_end(&[FIRST]);
    session.put(FIRST);
    assert_eq!(session.reported(1), [u32::from(FIRST)]);
}

fn fixture(lanes: usize) -> (Service, Arc<Stage>) {
    let stage = Arc::new(Stage::default());
    let service = Service::start(Options { lanes, ..Options::default() }, Arc::new(())).unwrap();
    let engines = (0..lanes).map(|_| Box::new(Held(Arc::clone(&stage))) as Box<dyn Engine>);
    service.install(OBJECTS, engines.collect(), 1).unwrap();
    (service, stage)
}

#[test]
fn two_pictures_are_under_way_and_reported_in_order() {
    let (service, stage) = fixture(3);
    let mut session = Session::start(&service, 1);
    session.put(1);
    stage.has_begun(1);
    session.put(2);
    stage.has_begun(2);
    // There is an idle lane, but two are enough: of the others only the newest is left.
    session.put(3);
    session.put(4);
    stage.let_end(&[2]);
    stage.let_end(&[1]);
    assert_eq!(session.reported(2), [1, 2], "in the order of the pictures, not of the answers");
    stage.let_end(&[4]);
    assert_eq!(session.reported(1), [4]);
    assert_eq!((stage.begun(), session.pictures.replaced()), (vec![1, 2, 4], 1));
    session.end();
}

#[test]
fn no_second_picture_is_begun_while_every_lane_is_at_work() {
    let (service, stage) = fixture(1);
    let mut session = Session::start(&service, 1);
    session.put(1);
    stage.has_begun(1);
    session.put(2);
    session.put(3);
    stage.let_end(&[1, 3]);
    assert_eq!(session.reported(2), [1, 3]);
    assert_eq!(session.pictures.replaced(), 1);
    session.end();
}

#[test]
fn a_session_whose_turn_it_is_not_keeps_its_newest_picture() {
    let (service, stage) = fixture(1);
    service.set_pictures_under_way(1);
    let (mut first, mut second) = (Session::start(&service, 1), Session::start(&service, 2));
    settle(&stage, &mut second);
    first.put(1);
    stage.has_begun(1);
    second.put(2);
    second.put(3);
    first.put(4);
    second.put(5);
    stage.let_end(&[1, 4, 5]);
    assert_eq!((first.reported(2), second.reported(1)), (vec![1, 4], vec![5]));
    assert_eq!(second.pictures.replaced(), 2);
    first.end();
    second.end();
}

#[test]
fn who_leaves_gives_the_turn_back() {
    let (service, stage) = fixture(1);
    service.set_pictures_under_way(1);
    let (first, mut second) = (Session::start(&service, 1), Session::start(&service, 2));
    settle(&stage, &mut second);
    first.put(1);
    stage.has_begun(1);
    second.put(2);
    stage.let_end(&[2]);
    // It leaves with a picture under way.
    first.pictures.close();
    first.thread.join().unwrap();
    stage.let_end(&[1]);
    assert_eq!(second.reported(1), [2]);
    second.end();
}
