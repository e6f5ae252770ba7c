//! Parquet files: what is read, and what is refused with its column and row.
#![cfg(feature = "parquet")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use embedtune_losses::LossKind;
use embedtune_train::data::parquet::{Labels, read, read_items, read_pairs};
use embedtune_train::data::{DataOptions, Items, Split, Stream};
use embedtune_train::run::Trainer;
use ndarray::arr2;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

type Group<'a> = SerializedRowGroupWriter<'a, std::fs::File>;

/// Writes a column: values, definition levels, repetition levels.
fn column<T: DataType>(
    group: &mut Group<'_>,
    values: &[T::T],
    definition: Option<&[i16]>,
    repetition: Option<&[i16]>,
) {
    let mut to = group.next_column().unwrap().unwrap();
    to.typed::<T>().write_batch(values, definition, repetition).unwrap();
    to.close().unwrap();
}

fn write(
    path: &Path,
    schema: &str,
    compression: Compression,
    groups: usize,
    fill: impl Fn(usize, &mut Group<'_>),
) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut file =
        SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, properties).unwrap();
    for group in 0..groups {
        let mut to = file.next_row_group().unwrap();
        fill(group, &mut to);
        to.close().unwrap();
    }
    file.close().unwrap();
}

const VECTORS: &str = "message m { required int64 id; optional group vector (LIST) { repeated group list { optional float \
                       element; } } required int32 label (INTEGER(32, false)); }";

/// Three rows of two values in each of two groups.
fn vectors(path: &Path, definition: &[i16], values: &[f32], compression: Compression) {
    write(path, VECTORS, compression, 2, |group, to| {
        column::<Int64Type>(to, &[1, 2, 3], None, None);
        column::<FloatType>(to, values, Some(definition), Some(&[0, 1, 0, 1, 0, 1][..definition.len()]));
        let first = if group == 0 { -1 } else { 7 };
        column::<Int32Type>(to, &[first, 1, 2], None, None);
    });
}

fn place(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("train.parquet")
}

#[test]
fn vectors_of_all_groups_and_codecs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = place(&folder);
    let values = [0.5, 1.0, -2.0, 3.0, 4.0, 5.0];
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::LZ4_RAW,
    ] {
        vectors(&path, &[3; 6], &values, compression);
        let rows = arr2(&[[0.5, 1.0], [-2.0, 3.0], [4.0, 5.0], [0.5, 1.0], [-2.0, 3.0], [4.0, 5.0]]);
        // The first label is unsigned: all its bits are one.
        let labels = Labels::Numbers(vec![u32::MAX, 1, 2, 7, 1, 2]);
        assert_eq!(read(&path).unwrap(), (Items::Vectors(rows.clone()), labels), "{compression:?}");
        let mut stream = Stream::open(&path, &DataOptions::default()).unwrap();
        // A group of rows at a time.
        for first in [0, 3] {
            let block = rows.slice(ndarray::s![first..first + 3, ..]).to_owned();
            assert_eq!(stream.next(99).unwrap(), Some(Items::Vectors(block)));
        }
        assert_eq!(stream.next(99).unwrap(), None);
    }
    // Doubles, and more rows than are read at a time.
    let schema = "message m { required group embedding (LIST) { repeated group list { required double element; } } \
                  required binary class (UTF8); }";
    let count = 20_000;
    write(&path, schema, Compression::SNAPPY, 1, |_, to| {
        let values: Vec<f64> = (0..count * 3).map(|i| i as f64).collect();
        let repetition: Vec<i16> = (0..count * 3).map(|i| i16::from(i % 3 != 0)).collect();
        column::<DoubleType>(to, &values, Some(&vec![1; count * 3]), Some(&repetition));
        let names: Vec<ByteArray> =
            (0..count).map(|i| ByteArray::from(format!("c{}", i % 5).as_str())).collect();
        column::<ByteArrayType>(to, &names, None, None);
    });
    let (Items::Vectors(found), Labels::Names(names)) = read(&path).unwrap() else { panic!("another kind") };
    assert_eq!((found.dim(), names.len(), names[9_999].as_str()), ((count, 3), count, "c4"));
    assert_eq!(found[[19_999, 2]], 59_999.0);
}

#[test]
fn a_folder_of_parquet_files_trains() {
    let folder = tempfile::tempdir().unwrap();
    for (part, count) in [("train", 24usize), ("test", 12)] {
        let schema = "message m { optional binary text (UTF8); optional binary label (UTF8); }";
        write(&folder.path().join(format!("{part}.parquet")), schema, Compression::SNAPPY, 1, |_, to| {
            let words = ["red fish", "blue bird", "green tree"];
            let texts: Vec<ByteArray> =
                (0..count).map(|i| ByteArray::from(format!("{} {i}", words[i % 3]).as_str())).collect();
            column::<ByteArrayType>(to, &texts, Some(&vec![1; count]), None);
            let labels: Vec<ByteArray> =
                (0..count).map(|i| ByteArray::from(["r", "b", "g"][i % 3])).collect();
            column::<ByteArrayType>(to, &labels, Some(&vec![1; count]), None);
        });
    }
    let split = Split::load(folder.path()).unwrap();
    assert_eq!(
        (split.train.classes.join(" ").as_str(), split.train.labels[..4].to_vec()),
        ("b g r", vec![2, 0, 1, 2])
    );
    assert_eq!(split.gallery.as_ref(), Some(&split.train));
    let run = Trainer::builder().loss(LossKind::ArcFaceLoss).epochs(1).batch_size(8);
    assert!(run.build(&split).unwrap().fit(&mut ()).unwrap().report.tuned.recall_at_1 > 0.9);
}

/// The same pairs and scores as CSV and as Parquet make the same classes.
#[test]
fn pairs_and_scores_are_read_as_from_csv() {
    const SCORED: &str =
        "message m { required binary text1 (UTF8); required binary text2 (UTF8); required double score; }";
    const PLAIN: &str = "message m { required binary query (UTF8); required binary document (UTF8); }";
    let rows = [("a", "b", 0.9), ("b", "c", 0.7), ("d", "e", 0.6), ("c", "d", 0.1)];
    let texts = |pick: fn(&(&str, &str, f64)) -> String| -> Vec<ByteArray> {
        rows.iter().map(|row| ByteArray::from(pick(row).as_str())).collect()
    };
    for scored in [true, false] {
        let [csv, columns] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for part in ["train", "test"] {
            let lines = rows.iter().map(|(a, b, score)| match scored {
                true => format!("{a} {part},{b} {part},{score}\n"),
                false => format!("{a} {part},{b} {part}\n"),
            });
            let header = if scored { "text1,text2,score\n" } else { "query,document\n" };
            let text = header.to_owned() + &lines.collect::<String>();
            std::fs::write(csv.path().join(format!("{part}.csv")), text).unwrap();
            let path = columns.path().join(format!("{part}.parquet"));
            let of = |texts: Vec<ByteArray>| -> Vec<ByteArray> {
                let named = texts.iter().map(|text| format!("{} {part}", text.as_utf8().unwrap()));
                named.map(|text| ByteArray::from(text.as_str())).collect()
            };
            write(&path, if scored { SCORED } else { PLAIN }, Compression::SNAPPY, 1, |_, to| {
                column::<ByteArrayType>(to, &of(texts(|row| row.0.to_owned())), None, None);
                column::<ByteArrayType>(to, &of(texts(|row| row.1.to_owned())), None, None);
                if scored {
                    column::<DoubleType>(to, &rows.map(|row| row.2), None, None);
                }
            });
        }
        let [from_csv, from_columns] = [&csv, &columns].map(|folder| Split::load(folder.path()).unwrap());
        assert_eq!(from_csv.train.items, from_columns.train.items);
        assert_eq!(from_csv.train.labels, from_columns.train.labels);
        assert_eq!(from_csv.queries.labels, from_columns.queries.labels);
        assert_eq!(from_csv.train.classes, from_columns.train.classes);
        assert_eq!(from_columns.train.classes.len(), if scored { 4 } else { 2 });
    }
    // What is wrong is named.
    let folder = tempfile::tempdir().unwrap();
    let refused = |scores: &[f64], texts: [&str; 2], part: &str| {
        let path = place(&folder);
        write(&path, SCORED, Compression::UNCOMPRESSED, 1, |_, to| {
            column::<ByteArrayType>(to, &texts.map(ByteArray::from), None, None);
            column::<ByteArrayType>(to, &["x", "y"].map(ByteArray::from), None, None);
            column::<DoubleType>(to, scores, None, None);
        });
        let message = read_pairs(&path).unwrap_err().to_string();
        assert!(message.contains("train.parquet: ") && message.contains(part), "{message}\nlacks: {part}");
    };
    refused(&[0.5, f64::NAN], ["a", "b"], "column `score`: the score in row 1 is NaN");
    refused(&[0.5, 0.5], ["a", " "], "column `text1`: row 1 is empty");
    vectors(&place(&folder), &[3; 6], &[1.0; 6], Compression::SNAPPY);
    assert_eq!(read_pairs(&place(&folder)).unwrap(), None);
}

/// Two bytes in the file's last part say how its pages are compressed.
#[test]
fn a_codec_that_is_not_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = place(&folder);
    vectors(&path, &[3; 6], &[1.0; 6], Compression::SNAPPY);
    let good = std::fs::read(&path).unwrap();
    let footer = u32::from_le_bytes(good[good.len() - 8..good.len() - 4].try_into().unwrap()) as usize;
    let begins = good.len() - 8 - footer;
    let mut named = 0;
    // Thrift's field 4 of a column's metadata: 0x15 and the codec's number, zigzag (Snappy 1, Zstandard 6).
    for at in begins..good.len() - 9 {
        if good[at..at + 2] == [0x15, 0x02] {
            let mut bytes = good.clone();
            bytes[at + 1] = 0x0c;
            std::fs::write(&path, bytes).unwrap();
            let message = read(&path).err().map(|e| e.to_string()).unwrap_or_default();
            named += usize::from(
                message.to_lowercase().contains("zstd") && message.contains("compressed by Snappy"),
            );
        }
    }
    assert!(named > 0);
}

#[test]
fn what_is_wrong_is_named_by_column_and_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = place(&folder);
    let refused = |part: &str| {
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("train.parquet: ") && message.contains(part), "{message}\nlacks: {part}");
    };
    let plain = Compression::UNCOMPRESSED;
    vectors(&path, &[3, 3, 3, 2, 3, 3], &[1.0; 5], plain);
    refused("column `vector`: row 1 has no value or a null in it");
    vectors(&path, &[3, 3, 3, 3, 3, 3], &[1.0, 1.0, 1.0, f32::NAN, 1.0, 1.0], plain);
    refused("column `vector`: row 1, column 1 is NaN");
    write(&path, VECTORS, plain, 1, |_, to| {
        column::<Int64Type>(to, &[1, 2, 3], None, None);
        column::<FloatType>(to, &[1.0; 5], Some(&[3; 5]), Some(&[0, 1, 0, 1, 0]));
        column::<Int32Type>(to, &[0, 1, 2], None, None);
    });
    refused("column `vector`: row 2 has 1 values, the rows before it 2");
    write(&path, VECTORS, plain, 1, |_, to| {
        column::<Int64Type>(to, &[1, 2, 3], None, None);
        column::<FloatType>(to, &[1.0; 4], Some(&[3, 3, 0, 3, 3]), Some(&[0, 1, 0, 0, 1]));
        column::<Int32Type>(to, &[0, 1, 2], None, None);
    });
    refused("column `vector`: row 1 is null");
    let one = |schema: &str| {
        write(&path, schema, plain, 1, |_, to| {
            column::<Int32Type>(to, &[3, -4], None, None);
            column::<Int32Type>(to, &[3, -4], None, None);
        });
    };
    one("message m { required int32 vector; required int32 label; }");
    refused("column `vector`: is int32, not a list");
    one("message m { required int32 text; required int32 label; }");
    refused("column `text`: is int32; expected texts");
    one("message m { required int32 a; required int32 label; }");
    refused("no column of vectors or texts: it has [\"a\", \"label\"]");
    let texts = |label: &[i32], names: &[&str]| {
        let schema = format!(
            "message m {{ required binary text (UTF8); {} }}",
            if names.is_empty() { "required int32 label;" } else { "required binary label (UTF8);" }
        );
        write(&path, &schema, plain, 1, |_, to| {
            column::<ByteArrayType>(to, &[ByteArray::from("a"), ByteArray::from("b")], None, None);
            if names.is_empty() {
                column::<Int32Type>(to, label, None, None);
            } else {
                let names: Vec<ByteArray> = names.iter().map(|&name| ByteArray::from(name)).collect();
                column::<ByteArrayType>(to, &names, None, None);
            }
        });
    };
    texts(&[3, -4], &[]);
    refused("column `label`: label -4 in row 1 is out of range");
    texts(&[], &["x", " "]);
    refused("column `label`: row 1 is empty");
    texts(&[1, 2], &[]);
    assert_eq!(read_items(&path).unwrap(), Items::Text(vec!["a".into(), "b".into()]));
    // Damaged in any place: an error or the right data, never a panic.
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    refused("not a Parquet file that can be read");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        std::fs::write(&path, &bad).unwrap();
        let _ = read(&path);
    }
}

/// A page whose header promises a list of some billion texts, over which the reader would skip for minutes.
#[test]
fn a_header_that_promises_billions_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = place(&folder);
    let schema = "message m { required binary text (UTF8); }";
    write(&path, schema, Compression::UNCOMPRESSED, 1, |_, to| {
        column::<ByteArrayType>(to, &[ByteArray::from("one"), ByteArray::from("two")], None, None);
    });
    let mut bytes = std::fs::read(&path).unwrap();
    // The first field of the first page's header, its type, becomes field 15: a list of so many texts.
    bytes.splice(4..10, [0xf9, 0xf8, 0xff, 0xff, 0xff, 0x07]);
    std::fs::write(&path, &bytes).unwrap();
    let started = std::time::Instant::now();
    let message = read_items(&path).unwrap_err().to_string();
    assert!(message.contains("train.parquet") && message.contains("ends"), "{message}");
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
