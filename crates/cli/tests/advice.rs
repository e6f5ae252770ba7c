//! `explain` and `advise`.

mod support;

use serde_json::Value;
use support::run;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn explain_sets_presets_side_by_side() {
    let at = tempfile::tempdir().unwrap();
    let line = "explain --loss ArcFaceLoss --preset pml3 --against insightface --angles 0,60,165";
    let text = run(at.path(), line).done();
    for part in [
        "arXiv:1801.07698, equation 3",
        "28.6479deg = 0.5rad",
        "jump: cos(a) - m sin(m)",
        "straightthrough",
        "    165     -77.1609     -62.1929",
    ] {
        assert!(text.contains(part), "{text}\nlacks: {part}");
    }
    let found = json(&run(at.path(), &format!("{line} --json")).done());
    assert_eq!(found["table"].as_array().map(Vec::len), Some(3));
    assert_eq!(found["sides"][1]["preset"], "insightface");
    assert!(found["table"][2]["values"][0].as_f64().unwrap() < -77.0);
    let triplet = run(at.path(), "explain --loss TripletMarginLoss --margin 0.3").done();
    assert!(triplet.contains("loss of one triplet"), "{triplet}");
}

#[test]
fn advise_gives_the_bound_and_refuses_what_is_impossible() {
    let at = tempfile::tempdir().unwrap();
    let refused = run(at.path(), "advise --classes 10 --dim 2 --loss CosFaceLoss --margin 0.35");
    for part in ["exact: equal steps around the circle", "largest margin     0.1910", "without one"] {
        assert!(refused.out.contains(part), "{}\nlacks: {part}", refused.out);
    }
    refused.refused(1, &["margin = 0.35: impossible for 10 classes in 2 dimensions", "0.191"]);
    for (line, part) in [
        ("advise --classes 10 --dim 9 --loss CosFaceLoss --margin 0.35", "needed scale       8.92,"),
        ("advise --classes 10 --dim 9 --loss ArcFaceLoss", "Rankin 1955, theorem 1"),
        ("advise --classes 10 --dim 5 --loss ArcFaceLoss", "Rankin 1955, theorem 2"),
        ("advise --classes 1000 --dim 64 --loss ArcFaceLoss", "an estimate"),
        ("advise --classes 4 --dim 2 --loss TripletMarginLoss", "1.4142 (a distance)"),
    ] {
        let text = run(at.path(), line).done();
        assert!(text.contains(part), "{text}\nlacks: {part}");
    }
    let found = json(&run(at.path(), "advise --classes 10 --dim 9 --loss CosFaceLoss --json").done());
    assert_eq!((&found["source"], &found["feasible"]), (&Value::from("simplex"), &Value::from(true)));
}

#[test]
fn nonsense_is_named() {
    let at = tempfile::tempdir().unwrap();
    for (line, expected) in [
        ("explain --loss Foo", "loss = Foo: unknown; the losses are"),
        ("explain --loss ArcFaceLoss --preset mine", "preset = mine: unknown; write one of finetuner"),
        ("explain --loss ArcFaceLoss --against mine", "against = mine: unknown"),
        ("explain --loss ArcFaceLoss --angles -3", "angles = -3: write degrees"),
        ("explain --loss ArcFaceLoss --margin 0.5", "needs its unit"),
        ("explain --loss ArcFaceLoss --scale -1", "scale = -1: "),
        ("advise --classes 1 --dim 2 --loss ArcFaceLoss", "classes = 1: "),
        ("advise --classes 10 --dim 0 --loss ArcFaceLoss", "dim = 0: "),
        ("advise --classes 10 --dim 2 --loss ArcFaceLoss --probability 2", "probability = 2: "),
    ] {
        run(at.path(), line).refused(1, &["error: ", expected]);
    }
}
