//! The same answers from every storage, and files that are not what they say.

use std::path::Path;

use crate::common::noise;
use embedtune_retrieval::half::f16;
use embedtune_retrieval::{
    Error, EvaluateOptions, Evaluation, Exclude, Index, Metric, NpyRows, Roc, Rows, evaluate, knn, search,
};
use ndarray::{Array2, s};

fn npy(path: &Path, descr: &str, fortran: &str, shape: &str, data: &[u8]) {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    std::fs::write(path, bytes).unwrap();
}

fn bytes<const N: usize>(x: &Array2<f32>, of: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    x.iter().flat_map(|&value| of(value)).collect()
}

#[test]
fn files_and_halves_are_searched_as_arrays_are() {
    let folder = tempfile::tempdir().unwrap();
    let halves = noise(2500, 6, 31).mapv(f16::from_f32);
    // What fits into 16 bits has the same value in all storages.
    let gallery = halves.mapv(f16::to_f32);
    let queries = noise(130, 6, 32);
    let labels: Vec<u32> = (0..2500).map(|i| i * i % 37).collect();
    let path = |name: &str| folder.path().join(name);
    npy(&path("h"), "<f2", "False", "(2500, 6)", &bytes(&gallery, |v| f16::from_f32(v).to_le_bytes()));
    npy(&path("s"), "<f4", "False", "(2500, 6)", &bytes(&gallery, f32::to_le_bytes));
    npy(&path("d"), "<f8", "False", "(2500, 6)", &bytes(&gallery, |v| f64::from(v).to_le_bytes()));
    let files = ["h", "s", "d"].map(|name| NpyRows::open(path(name)).unwrap());
    let transposed = halves.t().as_standard_layout().into_owned();
    let storages: [&dyn Rows; 6] = [&halves, &transposed.t(), &gallery, &files[0], &files[1], &files[2]];
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let expected = knn(queries.view(), gallery.view(), 9, metric, Exclude::None).unwrap();
        let index = Index::new(gallery.view(), metric).unwrap();
        assert_eq!(index.search(queries.view(), 9, Exclude::None).unwrap(), expected);
        let options = EvaluateOptions { metric, ..EvaluateOptions::default() };
        let metrics = evaluate(gallery.view(), &labels, None, &options).unwrap();
        for storage in storages {
            assert_eq!(search(&queries, storage, 9, metric, Exclude::None).unwrap(), expected);
            let index = Index::from_rows(storage, metric).unwrap();
            assert_eq!(index.search_rows(&queries, 9, Exclude::None).unwrap(), expected);
            assert_eq!(Evaluation::new(storage, &labels, None, &options).unwrap().metrics(), metrics);
            let own = search(storage, storage, 1, metric, Exclude::SameRow).unwrap();
            assert!(own.rows().enumerate().all(|(i, hits)| hits[0].index as usize != i));
        }
    }
}

#[test]
fn galleries_of_several_segments_equal_one() {
    // 2,048 coordinates: a segment is 2,048 rows, a group of queries 3,072.
    let gallery = noise(4500, 2048, 33);
    let labels: Vec<u32> = (0..4500).map(|i| i % 300).collect();
    let few = gallery.slice(s![4400.., ..]);
    let index = Index::new(gallery.view(), Metric::Cosine).unwrap();
    let exclude: Vec<u32> = (4400..4500).collect();
    let expected = index.search(few, 7, Exclude::SelfById(&exclude)).unwrap();
    assert_eq!(search(&few, &gallery, 7, Metric::Cosine, Exclude::SelfById(&exclude)).unwrap(), expected);
    // Many queries take other paths than few.
    let all = search(&gallery, &gallery, 7, Metric::Cosine, Exclude::SameRow).unwrap();
    for (i, hits) in expected.rows().enumerate() {
        assert_eq!(hits, all.row(4400 + i));
    }
    let found =
        Evaluation::new(&few, &labels[4400..], Some((&gallery, &labels)), &EvaluateOptions::default());
    // Each finds itself first: these are the items' own rows.
    assert_eq!(found.unwrap().metrics().recall_at_1, 1.0);
    let options = EvaluateOptions::default();
    let metrics = evaluate(gallery.view(), &labels, None, &options).unwrap();
    let hits =
        all.rows().enumerate().filter(|(i, hits)| labels[hits[0].index as usize] == labels[*i]).count();
    assert!((metrics.recall_at_1 - hits as f64 / 4500.0).abs() < 1e-12);
    let in_five = |hits: &[embedtune_retrieval::Hit], label| {
        hits[..5].iter().filter(|hit| labels[hit.index as usize] == label).count() as f64 / 5.0
    };
    let precision: f64 = all.rows().zip(&labels).map(|(hits, &label)| in_five(hits, label)).sum();
    assert!((metrics.precision_at_k[&5] - precision / 4500.0).abs() < 1e-12);
}

/// Rows beyond what is read, laid out and asked at once: of these a panel is a segment, and 89 queries are a group.
#[test]
fn vectors_longer_than_any_block_are_compared_as_others() {
    let items = noise(200, 70_000, 34);
    let labels: Vec<u32> = (0..200).map(|i| i % 40).collect();
    let exact = items.mapv(f64::from);
    let exact = exact.dot(&exact.t());
    for metric in [Metric::Cosine, Metric::Dot] {
        let score = |a: usize, b: usize| match metric {
            Metric::Dot => exact[[a, b]],
            _ => exact[[a, b]] / (exact[[a, a]] * exact[[b, b]]).sqrt(),
        };
        let found = search(&items, &items, 3, metric, Exclude::SameRow).unwrap();
        let index = Index::new(items.view(), metric).unwrap();
        assert_eq!(index.search(items.view(), 3, Exclude::SameRow).unwrap(), found);
        for (query, hits) in found.rows().enumerate() {
            let mut all: Vec<usize> = (0..200).filter(|&item| item != query).collect();
            all.sort_by(|&a, &b| score(query, b).total_cmp(&score(query, a)));
            let got: Vec<usize> = hits.iter().map(|hit| hit.index as usize).collect();
            assert_eq!(got, all[..3], "{metric:?}, query {query}");
        }
        let options = EvaluateOptions { metric, ..EvaluateOptions::default() };
        let first =
            found.rows().zip(&labels).filter(|(hits, label)| labels[hits[0].index as usize] == **label);
        let expected = first.count() as f64 / 200.0;
        assert_eq!(evaluate(items.view(), &labels, None, &options).unwrap().recall_at_1, expected);
    }
}

#[test]
fn vectors_too_long_to_exist_are_an_error_or_nothing() {
    struct None;
    impl Rows for None {
        fn shape(&self) -> (usize, usize) {
            (0, usize::MAX)
        }
        fn read(&self, _: usize, _: &mut [f32]) -> embedtune_retrieval::Result<()> {
            Ok(())
        }
    }
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        assert!(search(&None, &None, 3, metric, Exclude::SameRow).unwrap().is_empty());
        assert!(
            Index::from_rows(&None, metric).unwrap().search_rows(&None, 3, Exclude::None).unwrap().is_empty()
        );
        let options = EvaluateOptions { metric, ..EvaluateOptions::default() };
        assert!(Evaluation::new(&None, &[], Option::None, &options).is_err());
        assert!(Roc::of_pairs(&None, &[], Option::None, metric).is_err());
    }
}

#[test]
fn wrong_files_are_errors_that_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let four = [0u8; 24];
    let open = || NpyRows::open(&path).unwrap_err().to_string();
    assert!(open().contains("x.npy: cannot be read"));
    for (descr, fortran, shape, data, expected) in [
        (
            "<i4",
            "False",
            "(2, 3)",
            &four[..],
            "holds <i4; expected float32, float64 or little-endian float16",
        ),
        ("<f4", "True", "(2, 3)", &four, "Fortran order"),
        ("<f4", "False", "(6,)", &four, "shape [6]; expected [items, dim]"),
        ("<f4", "False", "(2, 3)", &four[1..], "the file is damaged"),
        ("<f4", "False", "(99999999999, 99999999999)", &four, "the file is damaged"),
        ("<f4", "False", "two", &four, "does not describe an array"),
    ] {
        npy(&path, descr, fortran, shape, data);
        let error = open();
        assert!(error.contains("x.npy: ") && error.contains(expected), "{error}");
    }
    std::fs::write(&path, b"PK\x03\x04").unwrap();
    assert!(open().contains("damaged or truncated (it ends too early)"));
    std::fs::write(&path, b"PK\x03\x04 and so on").unwrap();
    assert!(open().contains("not a .npy array: it begins with [50, 4b, 03, 04"));
    std::fs::write(&path, b"\x93NUMPY\x02\x00\xff\xff\xff\xff").unwrap();
    assert!(open().contains("header is said to be 4294967295 bytes long"));

    // Truncated after it was opened.
    npy(&path, "<f4", "False", "(2, 3)", &four);
    let rows = NpyRows::open(&path).unwrap();
    assert_eq!(rows.shape(), (2, 3));
    let mut row = [1.0f32; 3];
    rows.read(1, &mut row).unwrap();
    assert_eq!(row, [0.0; 3]);
    assert!(matches!(rows.read(2, &mut row), Err(Error::Shape { .. })));
    assert!(matches!(rows.read(0, &mut row[..2]), Err(Error::Shape { .. })));
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(90).unwrap();
    let error = search(&Array2::<f32>::zeros((1, 3)), &rows, 1, Metric::Dot, Exclude::None).unwrap_err();
    assert!(error.to_string().contains("x.npy: has changed while it was in use"), "{error}");
    // A value that no search can rank.
    npy(
        &path,
        "<f4",
        "False",
        "(2, 3)",
        &bytes(&ndarray::array![[0.0, 1.0, 2.0], [0.0, f32::NAN, 2.0]], f32::to_le_bytes),
    );
    let rows = NpyRows::open(&path).unwrap();
    let error = search(&Array2::<f32>::zeros((1, 3)), &rows, 1, Metric::Dot, Exclude::None).unwrap_err();
    assert!(matches!(error, Error::NotFinite { what: "gallery vectors", row: 1, column: 1, .. }));
}
