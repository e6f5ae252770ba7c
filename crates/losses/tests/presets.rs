//! Presets and options, as configuration files give them.

use embedtune_losses::{
    Angle, CentreInit, Error, LossKind, LossOptions, MarginValue, MinerKind, MinerOptions, Preset, build,
    margin_options, triplet_options,
};

#[test]
fn the_table_of_presets() {
    let (deg, rad) = (Angle::degrees(28.6), Angle::radians(0.5));
    let normal = |std| CentreInit::Normal { std };
    for (preset, triplet, squared, arc, edge, gradient, cos, centres) in [
        (Preset::Finetuner, 0.05, false, deg, "Jump", "Exact", 0.35, normal(0.01)),
        (Preset::Pml2, 0.05, false, deg, "Jump", "Exact", 0.35, normal(1.0)),
        (Preset::Pml3, 0.2, false, rad, "Jump", "Exact", 0.35, normal(1.0)),
        (Preset::Insightface, 0.05, false, rad, "None", "StraightThrough", 0.40, normal(0.01)),
        (Preset::Paper, 0.2, true, rad, "Continuous", "Exact", 0.35, CentreInit::UnitSphere),
    ] {
        let d = preset.defaults();
        assert_eq!(
            (d.triplet_margin, d.squared_triplet, d.arc_margin),
            (triplet, squared, arc),
            "{preset:?}"
        );
        assert_eq!(
            (format!("{:?}", d.edge), format!("{:?}", d.margin_gradient)),
            (edge.into(), gradient.into())
        );
        assert_eq!((d.cos_margin, d.centres), (cos, centres), "{preset:?}");
    }
    assert_eq!(Preset::default(), Preset::Finetuner);
}

#[test]
fn every_preset_builds_every_loss() {
    use embedtune_losses::ndarray::{Array2, s};
    let x = Array2::from_shape_fn((4, 3), |(i, j)| ((i * 5 + j * 3) as f32).sin());
    let w = Array2::from_shape_fn((6, 3), |(i, j)| ((i * 2 + j * 7) as f32).cos());
    for preset in [Preset::Finetuner, Preset::Pml2, Preset::Pml3, Preset::Insightface, Preset::Paper] {
        for kind in LossKind::ALL {
            let options = LossOptions { preset: Some(preset), ..LossOptions::default() };
            let loss = build(kind, &options, None, 2, 3).unwrap();
            assert_eq!(loss.name(), kind.name());
            // What it takes, written out, is the same loss, whatever preset it is read under.
            let mut whole = options.resolved(kind).unwrap();
            assert_eq!(whole.resolved(kind).unwrap(), whole);
            assert!(whole.margin.is_some() && whole.scale.is_some() == loss.weight_shape().is_some());
            assert_eq!(whole.sub_centers, (kind == LossKind::SubCenterArcFaceLoss).then_some(3));
            whole.preset = Some(Preset::Pml2);
            let same = match kind {
                LossKind::TripletMarginLoss => triplet_options(&whole) == triplet_options(&options),
                _ => margin_options(kind, &whole) == margin_options(kind, &options),
            };
            assert!(same, "{preset} {kind} {whole:?}");
            assert_eq!(kind.name().parse::<LossKind>().unwrap(), kind);
            let mut input = embedtune_losses::Input::new(x.view(), &[0, 1, 0, 1]);
            input.weights = loss.weight_shape().map(|[rows, _]| w.slice(s![..rows, ..]));
            let out = loss.evaluate(input).unwrap();
            assert!(out.stats.value.is_finite() && out.d_embeddings.iter().any(|&v| v != 0.0), "{kind}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let margin = |value: MarginValue| LossOptions { margin: Some(value), ..LossOptions::default() };
    let wrong = |kind, options: &LossOptions, miner, name: &str| {
        let error = build(kind, options, miner, 3, 4).map(|loss| loss.name()).unwrap_err();
        assert!(matches!(&error, Error::Option { option, .. } if *option == name), "{kind} {error}");
    };
    let plain = LossOptions::default();
    wrong(LossKind::ArcFaceLoss, &margin(0.5.into()), None, "margin");
    wrong(LossKind::ArcFaceLoss, &margin(Angle::degrees(180.0).into()), None, "margin");
    wrong(LossKind::ArcFaceLoss, &margin(Angle::degrees(-1.0).into()), None, "margin");
    wrong(LossKind::CosFaceLoss, &margin(Angle::degrees(20.0).into()), None, "margin");
    wrong(LossKind::CosFaceLoss, &margin(f64::NAN.into()), None, "margin");
    wrong(LossKind::SphereFaceLoss, &margin(2.5.into()), None, "margin");
    wrong(LossKind::TripletMarginLoss, &margin(Angle::degrees(20.0).into()), None, "margin");
    let scale = |scale| LossOptions { scale: Some(scale), ..LossOptions::default() };
    wrong(LossKind::TripletMarginLoss, &scale(64.0), None, "scale");
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e7] {
        wrong(LossKind::CosFaceLoss, &scale(bad), None, "scale");
    }
    let subs = |count| LossOptions { sub_centers: Some(count), ..LossOptions::default() };
    wrong(LossKind::ArcFaceLoss, &subs(3), None, "sub_centers");
    wrong(LossKind::SubCenterArcFaceLoss, &subs(0), None, "sub_centers");
    let swap = LossOptions { swap: Some(true), ..LossOptions::default() };
    wrong(LossKind::CosFaceLoss, &swap, None, "swap");
    let none = MinerOptions::default();
    wrong(LossKind::ArcFaceLoss, &plain, Some((MinerKind::BatchHardMiner, &none)), "miner");
    let given = MinerOptions { margin: Some(0.1), ..none };
    wrong(LossKind::TripletMarginLoss, &plain, Some((MinerKind::BatchHardMiner, &given)), "miner_options");
    assert!(build(LossKind::CosFaceLoss, &plain, None, 0, 4).is_err());
    assert!("Arcface".parse::<LossKind>().is_err());
    for preset in Preset::ALL {
        assert_eq!(preset.to_string().to_uppercase().parse::<Preset>().unwrap(), preset);
    }
    let error = "pml".parse::<Preset>().unwrap_err().to_string();
    assert!(
        error.contains("preset = pml") && error.contains("finetuner, pml2, pml3, insightface, paper"),
        "{error}"
    );
}
