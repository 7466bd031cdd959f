use super::*;

fn model(text: &str) -> ModelVersion {
    text.parse().unwrap()
}

fn before(text: &str) -> Option<Previous> {
    Some(Previous::try_from(text.to_owned()).unwrap())
}

fn share(text: &str, percent: u8) -> Option<Share<ModelVersion>> {
    Some(Share { model: model(text), percent })
}

fn variant(text: &str, attribute: &str, equals: &str) -> Variant<ModelVersion> {
    Variant { model: model(text), attribute: attribute.into(), equals: equals.into() }
}

fn traffic() -> Traffic {
    Traffic { stable: Some(model("yolo@3")), ..Traffic::new(Slot::Objects) }
}

fn wish(json: &str) -> Wish {
    serde_json::from_str(json).unwrap()
}

fn visitor(name: &str, attributes: &[(&str, &str)]) -> Visitor {
    let attributes = attributes.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Visitor::named(name, attributes.collect())
}

#[test]
fn slots_are_read_and_written() {
    for (text, stem) in [
        ("faces", "faces"),
        ("gender", "gender"),
        ("objects", "objects"),
        ("classify:dog", "classify_3adog"),
        ("classify:traffic light", "classify_3atraffic_20light"),
        ("classify:a_b", "classify_3aa_5fb"),
        ("classify:Ä/..", "classify_3a_c3_84_2f_2e_2e"),
        ("text-detect", "text-detect"),
        ("text-read", "text-read"),
    ] {
        let slot: Slot = text.parse().unwrap();
        assert_eq!((slot.name().as_ref(), slot.file_stem().as_str()), (text, stem));
        assert_eq!(serde_json::to_value(&slot).unwrap(), text);
    }
    let long = format!("classify:{}", "x".repeat(65));
    for text in ["", "classes", "classify", "classify:", "Faces", "classify:a\nb", &long] {
        assert!(text.parse::<Slot>().is_err(), "{text:?}");
    }
}

#[test]
fn versions_are_read_and_written() {
    assert_eq!(model("yolo-v8_n@12"), ModelVersion { name: "yolo-v8_n".into(), version: 12 });
    for text in ["", "yolo", "yolo@", "yolo@0", "yolo@+1", "yolo@-1", "yolo@1.0", "YOLO@1", "../a@1", "a@1@2"]
    {
        assert!(text.parse::<ModelVersion>().is_err(), "{text:?}");
    }
}

#[test]
fn a_session_belongs_to_one_side_for_good() {
    let split = Split { canary: share("yolo@4", 10), ..Split::all(model("yolo@3")) };
    let more = Split { canary: share("yolo@4", 40), ..split.clone() };
    let mut of_ten = 0;
    for number in 0..10_000 {
        let session = visitor(&format!("w1.{number}"), &[]);
        let chosen = split.choose(&Slot::Objects, &session);
        assert_eq!(chosen, split.choose(&Slot::Objects, &visitor(&format!("w1.{number}"), &[])));
        if *chosen == model("yolo@4") {
            of_ten += 1;
            assert_eq!(
                more.choose(&Slot::Objects, &session),
                chosen,
                "who has it keeps it as the share grows"
            );
        }
    }
    assert!((900..1100).contains(&of_ten), "{of_ten} of 10000 for 10 %");
    // The same sessions are not the first to try whatever is new in every slot.
    let both = (0..10_000).map(|number| visitor(&number.to_string(), &[]));
    let both = both.filter(|v| [Slot::Objects, Slot::Faces].iter().all(|s| place(s, v.key.unwrap()) < 10));
    assert!((50..200).contains(&both.count()));
}

#[test]
fn a_session_is_given_what_its_attributes_say() {
    let split = Split {
        stable: model("yolo@3"),
        canary: share("yolo@4", 100),
        variants: vec![variant("yolox@1", "cohort", "b"), variant("detr@1", "plan", "pro")],
        shadow: share("yolo@5", 100),
    };
    for (attributes, expected) in [
        (&[][..], "yolo@4"),
        (&[("cohort", "a")], "yolo@4"),
        (&[("cohort", "b")], "yolox@1"),
        (&[("plan", "pro")], "detr@1"),
        (&[("plan", "pro"), ("cohort", "b")], "yolox@1"),
    ] {
        let chosen = split.choose(&Slot::Objects, &visitor("session", attributes));
        assert_eq!(*chosen, model(expected), "{attributes:?}");
    }
    // Pictures and files are nobody's.
    assert_eq!(*split.choose(&Slot::Objects, &Visitor::default()), model("yolo@3"));
}

#[test]
fn what_cannot_be_is_refused() {
    let with = |change: &dyn Fn(&mut Traffic)| {
        let mut traffic = traffic();
        change(&mut traffic);
        traffic.validate().map_err(|error| error.to_string())
    };
    let table: &[(&dyn Fn(&mut Traffic), Result<(), &str>)] = &[
        (&|_| (), Ok(())),
        (&|t| t.canary = share("yolo@4", 1), Ok(())),
        (&|t| t.canary = share("yolo@4", 0), Err("the canary takes 0 percent, not 1 to 100")),
        (&|t| t.shadow = share("yolo@4", 101), Err("the shadow takes 101 percent, not 1 to 100")),
        (&|t| t.canary = share("yolo@3", 10), Err("yolo@3 is both the stable one and the canary")),
        (&|t| t.shadow = share("yolo@3", 10), Err("yolo@3 is both the stable one and the shadow")),
        (
            &|t| (t.canary, t.shadow) = (share("yolo@4", 10), share("yolo@4", 10)),
            Err("yolo@4 is both the canary and the shadow"),
        ),
        (&|t| t.variants = vec![variant("a@1", "x", "y"); 9], Err("there are 9 variants, more than 8")),
        (
            &|t| t.variants = vec![variant("a@1", "", "y")],
            Err(
                "\"\" is no attribute of a session, nor a value of one: 1 to 64 of A-Z, a-z, 0-9, ., _ and -",
            ),
        ),
        (
            &|t| (t.slot, t.shadow) = (Slot::Gender, share("yolo@4", 10)),
            Err("a shadow can only run beside faces or objects, not gender"),
        ),
        (&|t| t.guard.max_error_ratio = f32::NAN, Err("max_error_ratio of the guard is NaN, not 0 to 1")),
        (&|t| t.guard.max_p95_ratio = 0.5, Err("max_p95_ratio of the guard is 0.5, not 1 to 1000")),
        (&|t| t.guard.max_p95_ms = Some(0.0), Err("max_p95_ms of the guard is 0, not 0.1 to 60000")),
        (&|t| t.guard.min_runs = 1, Err("min_runs of the guard is 1, not 10 to 1000000")),
    ];
    for (change, expected) in table {
        assert_eq!(with(change), expected.map_err(str::to_owned));
    }
}

#[test]
fn a_wish_keeps_the_past() {
    let first =
        Traffic::wished(Slot::Objects, None, wish(r#"{"stable":"yolo@3"}"#), "asked for", 10).unwrap();
    assert_eq!((first.revision, &first.previous), (1, &before("default")));
    let dog = || Slot::Classify("dog".into());
    let first_of_dog = Traffic::wished(dog(), None, wish(r#"{"stable":"kinds@1"}"#), "", 10).unwrap();
    assert_eq!(first_of_dog.previous, None, "it has nothing to go back to");
    // What was read can be sent back with a change.
    let mut sent = serde_json::to_value(&first).unwrap();
    sent["stable"] = "yolo@4".into();
    sent["canary"] = serde_json::json!({"model": "yolo@5", "percent": 10});
    let sent: Wish = serde_json::from_value(sent).unwrap();
    assert_eq!((sent.revision, &sent.slot), (Some(1), &Some(Slot::Objects)));
    let second = Traffic::wished(Slot::Objects, Some(&first), sent, "asked for", 20).unwrap();
    assert_eq!((second.revision, &second.previous), (2, &before("yolo@3")));
    let told: Vec<_> = second.history.iter().map(|event| (event.at, event.what.as_str())).collect();
    assert_eq!(told, [(10, "stable yolo@3"), (20, "stable yolo@4, canary yolo@5 10 %")]);
    for json in [
        r#"{"stable":"yolo"}"#,
        r#"{"stable":"yolo@1","cannary":{}}"#,
        r#"{"stable":"yolo@1","canary":{"model":"a@1"}}"#,
        r#"{"stable":"yolo@1","canary":{"model":"a@1","percent":300}}"#,
        r#"{"stable":"yolo@1","slot":"nothing"}"#,
    ] {
        assert!(serde_json::from_str::<Wish>(json).is_err(), "{json}");
    }
}

#[test]
fn versions_are_promoted_and_rolled_back() {
    let mut traffic = Traffic { canary: share("yolo@4", 10), shadow: share("yolo@5", 50), ..traffic() };
    traffic.promote(Candidate::Canary, "agreed", 1).unwrap();
    assert_eq!(traffic.to_string(), "stable yolo@4, shadow yolo@5 50 %");
    assert_eq!(traffic.promote(Candidate::Canary, "", 1), Err(TrafficError::NothingToPromote("canary")));
    traffic.promote(Candidate::Shadow, "agreed", 2).unwrap();
    assert_eq!((traffic.to_string().as_str(), &traffic.previous), ("stable yolo@5", &before("yolo@4")));
    traffic.roll_back("worse", 3).unwrap();
    assert_eq!((traffic.to_string().as_str(), &traffic.previous), ("stable yolo@4", &None));
    assert_eq!(traffic.roll_back("worse", 4), Err(TrafficError::NothingToRollBack));
    assert_eq!(traffic.revision, 3);
    let told: Vec<_> = traffic.history.iter().map(|event| (&*event.what, &*event.why)).collect();
    let expected =
        [("promoted yolo@4", "agreed"), ("promoted yolo@5", "agreed"), ("rolled back yolo@5", "worse")];
    assert_eq!(told, expected);
}

#[test]
fn the_slots_own_model_is_gone_back_to_too() {
    let first =
        Traffic::wished(Slot::Objects, None, wish(r#"{"canary":{"model":"yolo@1","percent":5}}"#), "", 1);
    let mut traffic = first.unwrap();
    assert_eq!(
        (traffic.to_string().as_str(), &traffic.previous),
        ("stable default, canary yolo@1 5 %", &None)
    );
    traffic.promote(Candidate::Canary, "", 2).unwrap();
    assert_eq!((traffic.to_string().as_str(), &traffic.previous), ("stable yolo@1", &before("default")));
    let kept: Traffic = serde_json::from_value(serde_json::to_value(&traffic).unwrap()).unwrap();
    assert_eq!(kept, traffic);
    traffic.roll_back("", 3).unwrap();
    assert_eq!((traffic.to_string().as_str(), &traffic.previous), ("stable default", &None));
    assert_eq!(traffic.roll_back("", 4), Err(TrafficError::NothingToRollBack));
}

#[test]
fn what_fails_is_withdrawn_wherever_it_stands() {
    let full = Traffic {
        canary: share("yolo@4", 10),
        shadow: share("yolo@5", 50),
        variants: vec![variant("yolox@1", "cohort", "b"), variant("yolo@4", "cohort", "c")],
        previous: before("yolo@2"),
        ..traffic()
    };
    for (failing, expected) in [
        ("yolo@4", Some("stable yolo@3, yolox@1 where cohort is b, shadow yolo@5 50 %")),
        (
            "yolo@5",
            Some("stable yolo@3, canary yolo@4 10 %, yolox@1 where cohort is b, yolo@4 where cohort is c"),
        ),
        ("yolox@1", Some("stable yolo@3, canary yolo@4 10 %, yolo@4 where cohort is c, shadow yolo@5 50 %")),
        (
            "yolo@3",
            Some(
                "stable yolo@2, canary yolo@4 10 %, yolox@1 where cohort is b, yolo@4 where cohort is c, shadow yolo@5 50 %",
            ),
        ),
        ("yolo@9", None),
    ] {
        let mut traffic = full.clone();
        let is_changed = traffic.withdraw(&model(failing), "it fails", 1);
        assert_eq!(is_changed.then(|| traffic.to_string()).as_deref(), expected, "{failing}");
        assert!(traffic.models().all(|named| *named != model(failing)), "{failing}");
        assert_eq!(traffic.revision, u64::from(is_changed));
    }
    let mut alone = traffic();
    assert!(!alone.withdraw(&model("yolo@3"), "it fails", 1), "there is nothing before it");
    let mut back = Traffic { previous: before("yolo@4"), canary: share("yolo@4", 10), ..traffic() };
    assert!(back.withdraw(&model("yolo@3"), "it fails", 1));
    assert_eq!(back.to_string(), "stable yolo@4");
}

#[test]
fn the_past_is_bounded() {
    let mut traffic = traffic();
    for at in 0..2 * MAX_HISTORY as u64 {
        traffic.canary = share("yolo@4", 10);
        assert!(traffic.withdraw(&model("yolo@4"), "again", at));
    }
    assert_eq!((traffic.history.len(), traffic.history[0].at), (MAX_HISTORY, MAX_HISTORY as u64));
}

#[test]
fn bounds_are_judged() {
    let guard = Guard { max_error_ratio: 0.1, max_p95_ratio: 1.5, max_p95_ms: Some(90.0), min_runs: 100 };
    let measured = |runs, errors, p95_ms| Measured { runs, errors, p95_ms };
    let other = measured(1000, 0, Some(40.0));
    for (version, other, expected) in [
        (measured(0, 0, None), Some(other), None),
        (measured(1000, 100, Some(50.0)), Some(other), None),
        (measured(1000, 101, Some(50.0)), Some(other), Some("101 of 1000 runs failed, more than 10.0 %")),
        // Eleven that fail are too many even if the other 89 do not.
        (measured(11, 10, None), Some(other), None),
        (measured(11, 11, None), Some(other), Some("11 of 11 runs failed, more than 10.0 %")),
        (measured(99, 0, Some(99.0)), Some(other), None),
        (measured(100, 0, Some(60.0)), Some(other), None),
        (
            measured(100, 0, Some(61.0)),
            Some(other),
            Some("p95 of 61.0 ms, more than 1.5 times the 40.0 ms of the other"),
        ),
        (measured(100, 0, Some(61.0)), None, None),
        (measured(100, 0, Some(61.0)), Some(measured(99, 0, Some(40.0))), None),
        (measured(100, 0, Some(91.0)), None, Some("p95 of 91.0 ms, more than 90 ms")),
    ] {
        let breach = guard.judge(&version, other.as_ref()).map(|breach| breach.to_string());
        assert_eq!(breach.as_deref(), expected, "{version:?}");
    }
}
