use super::*;

fn rectangle(x: f32, y: f32, width: f32, height: f32, degrees: f32) -> Rectangle {
    Rectangle { centre: Point { x, y }, width, height, angle: degrees.to_radians() }
}

fn line(x: f32, y: f32, width: f32, height: f32) -> Line {
    Line { place: rectangle(x, y, width, height, 0.0), score: 0.9 }
}

/// An input of 256 by 128 that shows a picture of twice its size.
const PLACEMENT: Placement = Placement {
    scale_x: 0.5,
    scale_y: 0.5,
    offset_x: 0.0,
    offset_y: 0.0,
    width: 512.0,
    height: 256.0,
    input_width: 256,
    input_height: 128,
};

/// A map of the input's size that is `bright` within rectangles.
fn map(bright: &[(Rectangle, f32)]) -> Vec<f32> {
    let value = |at: usize| {
        let (x, y) = ((at % 256) as f32, (at / 256) as f32);
        let within = bright.iter().find(|(place, _)| {
            let (dx, dy) = (x - place.centre.x, y - place.centre.y);
            let (sin, cos) = place.angle.sin_cos();
            let (along, across) = (dx * cos + dy * sin, dy * cos - dx * sin);
            along.abs() <= place.width / 2.0 && across.abs() <= place.height / 2.0
        });
        within.map_or(0.0, |(_, value)| *value)
    };
    (0..256 * 128).map(value).collect()
}

fn found(bright: &[(Rectangle, f32)]) -> Vec<Line> {
    let values = map(bright);
    lines_of(&TextMap { values: &values, width: 256, height: 128 }, &PLACEMENT, 0.5).unwrap()
}

#[test]
fn a_line_is_found_where_it_is_and_larger_than_its_mark() {
    let lines = found(&[(rectangle(100.0, 60.0, 80.0, 10.0, 0.0), 0.9)]);
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(
        (line.place.centre.x - 201.0).abs() < 2.0 && (line.place.centre.y - 121.0).abs() < 2.0,
        "{line:?}"
    );
    // 81 by 11 pixels grow by 1.6 · 891 / 184 = 7.7 on every side, and are twice as large in the picture.
    assert!((line.place.width - 193.0).abs() < 6.0 && (line.place.height - 53.0).abs() < 6.0, "{line:?}");
    assert!(line.place.angle.abs() < 0.01 && line.score > 0.75, "{line:?}");
}

#[test]
fn turned_lines_are_read_along_and_standing_ones_downwards() {
    for (degrees, expected) in [(0.0, 0.0), (20.0, 20.0), (-30.0, -30.0), (70.0, 70.0), (90.0, 90.0)] {
        let lines = found(&[(rectangle(120.0, 64.0, 80.0, 12.0, degrees), 0.9)]);
        let [line] = lines.as_slice() else { panic!("{degrees}: {lines:?}") };
        assert!((line.place.angle.to_degrees() - expected).abs() < 3.0, "{degrees}: {line:?}");
        assert!(line.place.width > 2.0 * line.place.height, "{degrees}: {line:?}");
    }
}

#[test]
fn a_rectangle_has_one_way_along() {
    for (degrees, width, height, expected) in [
        (0.0, 10.0, 4.0, (0.0, 10.0, 4.0)),
        (90.0, 4.0, 10.0, (0.0, 10.0, 4.0)),
        (180.0, 10.0, 4.0, (0.0, 10.0, 4.0)),
        (-90.0, 4.0, 10.0, (0.0, 10.0, 4.0)),
        (80.0, 4.0, 10.0, (-10.0, 10.0, 4.0)),
        (0.0, 4.0, 10.0, (90.0, 10.0, 4.0)),
        // A letter by itself is not read from the side.
        (0.0, 8.0, 10.0, (0.0, 8.0, 10.0)),
    ] {
        let Rectangle { width, height, angle, .. } =
            along_the_line(&rectangle(0.0, 0.0, width, height, degrees));
        assert!((angle.to_degrees() - expected.0).abs() < 1e-3, "{degrees}: {}", angle.to_degrees());
        assert_eq!((width, height), (expected.1, expected.2), "{degrees}");
    }
}

#[test]
fn faint_regions_and_specks_are_no_lines() {
    assert!(found(&[(rectangle(100.0, 60.0, 80.0, 10.0, 0.0), 0.4)]).is_empty(), "below the least score");
    assert!(found(&[(rectangle(100.0, 60.0, 1.0, 1.0, 0.0), 0.9)]).is_empty(), "a speck");
    assert!(found(&[]).is_empty());
    let values = vec![f32::NAN; 16];
    let map = TextMap { values: &values, width: 4, height: 4 };
    assert!(lines_of(&map, &PLACEMENT, 0.5).unwrap().is_empty());
}

#[test]
fn any_map_is_bounded_work() {
    // Every second pixel, and rings within rings.
    let dots: Vec<f32> = (0..256 * 128).map(|at| if at % 3 == 0 { 1.0 } else { 0.0 }).collect();
    let ring = |at: usize| {
        let (x, y) = ((at % 256) as i32 - 128, (at / 256) as i32 - 64);
        if x.abs().max(2 * y.abs()) % 8 < 4 { 1.0 } else { 0.0 }
    };
    let rings: Vec<f32> = (0..256 * 128).map(ring).collect();
    for values in [dots, rings, vec![1.0; 256 * 128]] {
        let lines = lines_of(&TextMap { values: &values, width: 256, height: 128 }, &PLACEMENT, 0.0).unwrap();
        assert!(lines.len() <= MAX_LINES);
    }
}

#[test]
fn lines_are_read_as_people_do() {
    let lines =
        vec![line(300.0, 22.0, 80.0, 20.0), line(100.0, 60.0, 90.0, 20.0), line(100.0, 20.0, 90.0, 20.0)];
    let order: Vec<f32> = in_reading_order(lines).iter().map(|line| line.place.centre.x).collect();
    assert_eq!(order, [100.0, 300.0, 100.0]);
}

#[test]
fn lines_become_one_text() {
    let text = |text: &str, score: f32| LineText { text: text.into(), score };
    assert_eq!(joined(&[text("SPEED", 0.9), text("", 0.0), text("30", 0.55)]).text, "SPEED 30");
    assert!((joined(&[text("SPEED", 0.9), text("30", 0.55)]).score - 0.8).abs() < 1e-6);
    assert_eq!(joined(&[]), LineText::default());
    let long = text(&"x".repeat(200), 1.0);
    assert_eq!(joined(&[long.clone(), long]).text.len(), 200);
    assert_eq!(tidy(&text("  a\u{0}\tb \u{3000} ", 0.5)).text, "a b");
    assert_eq!(tidy(&text(" \n", 0.5)), LineText::default());
}
