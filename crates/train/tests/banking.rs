//! Real text: BANKING77's test queries find training queries of the same intent.

use std::path::{Path, PathBuf};

use embedtune_losses::LossKind;
use embedtune_train::data::Split;
use embedtune_train::run::Trainer;

#[test]
fn tuned_text_beats_the_untrained_encoder_and_tf_idf() {
    let root = std::env::var_os("EMBEDTUNE_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let folder = root.join("banking77");
    if !folder.is_dir() {
        println!("skipped: no {}; set EMBEDTUNE_DATA to the folder that holds banking77", folder.display());
        return;
    }
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/tfidf_banking77.json")).unwrap();
    let variants = golden["recall_at_1"].as_object().unwrap().values();
    let tf_idf = variants.map(|recall| recall.as_f64().unwrap()).fold(0.0, f64::max);
    let split = Split::load(&folder).unwrap();
    for loss in [LossKind::ArcFaceLoss, LossKind::TripletMarginLoss] {
        let report = Trainer::builder().loss(loss).build(&split).unwrap().fit(&mut ()).unwrap().report;
        let (untrained, tuned) = (report.untrained.recall_at_1, report.tuned.recall_at_1);
        println!(
            "{loss}: Recall@1 tuned {tuned:.4}, best TF-IDF {tf_idf:.4}, untrained encoder {untrained:.4}"
        );
        // 3,080 queries: one standard error is 0.007.
        assert!(tuned > untrained + 0.02 && tuned > tf_idf + 0.02, "{loss}: {report:?}");
    }
}
