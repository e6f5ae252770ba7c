//! Criterion's files as one list.

use std::fs;
use std::path::{Path, PathBuf};

use embedtune_benches::collect::collect;

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A result as criterion 0.8 writes it.
fn write(folder: &Path, function: &str, value: &str, throughput: &str, median: f64) {
    for kept in ["new", "base"] {
        let folder = folder.join("group").join(function).join(value).join(kept);
        fs::create_dir_all(&folder).unwrap();
        let names = format!(
            r#"{{"group_id":"group","function_id":"{function}","value_str":"{value}","throughput":{throughput},
               "full_id":"group/{function}/{value}","directory_name":"group/{function}/{value}","title":"t"}}"#
        );
        fs::write(folder.join("benchmark.json"), names).unwrap();
        let estimates = format!(
            r#"{{"median":{{"confidence_interval":{{"confidence_level":0.95,"lower_bound":{},"upper_bound":{}}},
               "point_estimate":{median},"standard_error":1.0}}}}"#,
            median * 0.9,
            median * 1.1
        );
        fs::write(folder.join("estimates.json"), estimates).unwrap();
    }
}

#[test]
fn results_stand_beside_their_roofline() {
    let folder = folder("collected");
    // Twice the bytes in four times the time: half the rate.
    write(&folder, "copy", "small", r#"{"Bytes":1000}"#, 500.0);
    write(&folder, "kernel", "small", r#"{"Bytes":2000}"#, 2000.0);
    write(&folder, "kernel", "large", r#"{"Bytes":2000}"#, 2000.0);
    write(&folder, "products", "small", r#"{"Elements":8}"#, 1.0);
    write(&folder, "read", "bare", "null", 100.0);
    write(&folder, "kernel", "bare", "null", 400.0);
    let all = collect(&folder, "").unwrap();
    let ids: Vec<&str> = all.iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(
        ids,
        ["copy/small", "kernel/bare", "kernel/large", "kernel/small", "products/small", "read/bare"]
            .map(|id| format!("group/{id}"))
    );
    let kernel = &all[3];
    assert!((kernel["median_seconds"].as_f64().unwrap() - 2e-6).abs() < 1e-12);
    assert!((kernel["low_seconds"].as_f64().unwrap() - 1.8e-6).abs() < 1e-12);
    assert_eq!(kernel["throughput"]["unit"], "bytes");
    assert!((kernel["throughput"]["per_second"].as_f64().unwrap() - 1e9).abs() < 1.0);
    // Flops are not compared with bytes, nor one size with another.
    let shares = kernel["of_roofline"].as_object().unwrap();
    assert_eq!(shares.len(), 1);
    assert!((shares["copy"].as_f64().unwrap() - 0.5).abs() < 1e-12);
    assert!(all[2]["of_roofline"].as_object().unwrap().is_empty());
    // Without an amount, by time.
    assert!((all[1]["of_roofline"]["read"].as_f64().unwrap() - 0.25).abs() < 1e-12);
    assert_eq!(collect(&folder, "kernel/small").unwrap().len(), 1);
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = folder("broken");
    assert!(collect(&folder.join("missing"), "").unwrap_err().contains("missing"));
    let new = folder.join("group/new");
    fs::create_dir_all(&new).unwrap();
    fs::write(new.join("benchmark.json"), r#"{"group_id":"group","full_id":"group"}"#).unwrap();
    fs::write(new.join("estimates.json"), "{}").unwrap();
    let problem = collect(&folder, "").unwrap_err();
    assert!(problem.contains("estimates.json: no number at /median/point_estimate"), "{problem}");
}
