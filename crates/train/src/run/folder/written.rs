//! What is written as TOML, as a plain tree first.
//!
//! TOML's serialiser compiles each type that it is given six times (documents, tables, inline tables, arrays of tables, ...).
//! Options have many types; a tree is one, and what is written is the same.

use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer, ser};
use toml::ser::Error;

type Made<T> = std::result::Result<T, Error>;

/// `value` as a TOML document: the text that [`toml::to_string`] gives.
pub(in crate::run) fn to_toml(value: &impl Serialize) -> Made<String> {
    toml::to_string(&value.serialize(ToTree)?)
}

/// A value with its fields in their order.
enum Tree {
    Absent,
    Truth(bool),
    Integer(i64),
    Natural(u64),
    /// Apart from [`Tree::Double`], since 0.1 as `f32` is written as 0.1.
    Single(f32),
    Double(f64),
    Text(String),
    List(Vec<Tree>),
    Table(Vec<(String, Tree)>),
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent => to.serialize_none(),
            Self::Truth(value) => to.serialize_bool(*value),
            Self::Integer(value) => to.serialize_i64(*value),
            Self::Natural(value) => to.serialize_u64(*value),
            Self::Single(value) => to.serialize_f32(*value),
            Self::Double(value) => to.serialize_f64(*value),
            Self::Text(value) => to.serialize_str(value),
            Self::List(items) => {
                let mut list = to.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Table(fields) => {
                let mut table = to.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    table.serialize_entry(name, value)?;
                }
                table.end()
            }
        }
    }
}

/// Makes a [`Tree`] of any value.
struct ToTree;

impl ToTree {
    fn fields(variant: Option<&'static str>) -> Fields {
        Fields { variant, made: Vec::new(), name: String::new() }
    }

    fn items(variant: Option<&'static str>) -> Items {
        Items { variant, made: Vec::new() }
    }
}

/// Under the name of an enum's variant, where there is one.
fn named(variant: Option<&'static str>, tree: Tree) -> Tree {
    match variant {
        Some(name) => Tree::Table(vec![(name.to_owned(), tree)]),
        None => tree,
    }
}

/// Methods that widen a number.
macro_rules! numbers {
    ($($method:ident: $type:ty => $variant:ident,)*) => {$(
        fn $method(self, value: $type) -> Made<Tree> {
            Ok(Tree::$variant(value.into()))
        }
    )*};
}

impl Serializer for ToTree {
    type Ok = Tree;
    type Error = Error;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Fields;
    type SerializeStruct = Fields;
    type SerializeStructVariant = Fields;

    numbers! {
        serialize_bool: bool => Truth,
        serialize_i8: i8 => Integer,
        serialize_i16: i16 => Integer,
        serialize_i32: i32 => Integer,
        serialize_i64: i64 => Integer,
        serialize_u8: u8 => Natural,
        serialize_u16: u16 => Natural,
        serialize_u32: u32 => Natural,
        serialize_u64: u64 => Natural,
        serialize_f32: f32 => Single,
        serialize_f64: f64 => Double,
        serialize_char: char => Text,
        serialize_str: &str => Text,
    }

    fn serialize_bytes(self, _: &[u8]) -> Made<Tree> {
        Err(Error::custom("TOML has no bytes"))
    }

    fn serialize_none(self) -> Made<Tree> {
        Ok(Tree::Absent)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Made<Tree> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Made<Tree> {
        Err(Error::custom("TOML has no value without content"))
    }

    fn serialize_unit_struct(self, _: &'static str) -> Made<Tree> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Made<Tree> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Made<Tree> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Made<Tree> {
        Ok(named(Some(variant), value.serialize(self)?))
    }

    fn serialize_seq(self, _: Option<usize>) -> Made<Items> {
        Ok(Self::items(None))
    }

    fn serialize_tuple(self, _: usize) -> Made<Items> {
        Ok(Self::items(None))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Made<Items> {
        Ok(Self::items(None))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Made<Items> {
        Ok(Self::items(Some(variant)))
    }

    fn serialize_map(self, _: Option<usize>) -> Made<Fields> {
        Ok(Self::fields(None))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Made<Fields> {
        Ok(Self::fields(None))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Made<Fields> {
        Ok(Self::fields(Some(variant)))
    }
}

/// A list in the making.
struct Items {
    variant: Option<&'static str>,
    made: Vec<Tree>,
}

/// A table in the making.
struct Fields {
    variant: Option<&'static str>,
    made: Vec<(String, Tree)>,
    /// Of the map's entry whose value comes next.
    name: String,
}

macro_rules! items {
    ($($trait:ident: $method:ident,)*) => {$(
        impl ser::$trait for Items {
            type Ok = Tree;
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, item: &T) -> Made<()> {
                self.made.push(item.serialize(ToTree)?);
                Ok(())
            }

            fn end(self) -> Made<Tree> {
                Ok(named(self.variant, Tree::List(self.made)))
            }
        }
    )*};
}

items! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
}

macro_rules! fields {
    ($($trait:ident,)*) => {$(
        impl ser::$trait for Fields {
            type Ok = Tree;
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Made<()> {
                self.made.push((name.to_owned(), value.serialize(ToTree)?));
                Ok(())
            }

            fn end(self) -> Made<Tree> {
                Ok(named(self.variant, Tree::Table(self.made)))
            }
        }
    )*};
}

fields! {
    SerializeStruct,
    SerializeStructVariant,
}

impl SerializeMap for Fields {
    type Ok = Tree;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, name: &T) -> Made<()> {
        match name.serialize(ToTree)? {
            Tree::Text(name) => self.name = name,
            _ => return Err(Error::custom("a name of TOML is a text")),
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Made<()> {
        self.made.push((std::mem::take(&mut self.name), value.serialize(ToTree)?));
        Ok(())
    }

    fn end(self) -> Made<Tree> {
        Ok(named(self.variant, Tree::Table(self.made)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::encoder::EncoderSpec;
    use crate::run::{DataRecord, RunFile, RunOptions};

    /// One of each shape that serde knows.
    #[derive(Serialize)]
    enum Shape {
        Unit,
        New(f32),
        Pair(u8, i16),
        Fields { a: f64, b: Option<bool> },
    }

    #[derive(Serialize)]
    struct New(char);

    #[derive(Serialize)]
    struct Both(i8, u16);

    #[derive(Serialize)]
    struct All {
        table: BTreeMap<&'static str, Shape>,
        unit: Shape,
        new: New,
        both: Both,
        absent: Option<u64>,
        numbers: Vec<f32>,
        tables: Vec<BTreeMap<String, (u32, i32)>>,
        empty: Vec<BTreeMap<String, u8>>,
    }

    fn same(value: &impl Serialize) {
        let expected = toml::to_string(value).map_err(|e| e.to_string());
        assert!(expected.is_ok(), "{expected:?}");
        assert_eq!(to_toml(value).map_err(|e| e.to_string()), expected);
    }

    #[test]
    fn every_shape_is_written_as_without_the_tree() {
        let table = BTreeMap::from([
            ("new one", Shape::New(0.1)),
            ("pair", Shape::Pair(1, -2)),
            ("fields", Shape::Fields { a: 1e-300, b: None }),
            ("more \"fields\"", Shape::Fields { a: f64::NAN, b: Some(true) }),
        ]);
        let tables =
            [("x", 3), ("y z", -4)].map(|(name, value)| BTreeMap::from([(name.to_owned(), (7, value))]));
        same(&All {
            table,
            unit: Shape::Unit,
            new: New('ü'),
            both: Both(-8, 9),
            absent: None,
            numbers: vec![1.0, f32::MIN_POSITIVE, -0.05],
            tables: tables.to_vec(),
            empty: Vec::new(),
        });
    }

    #[test]
    fn a_run_file_is_written_as_without_the_tree() {
        let options = RunOptions::from_toml(
            "loss = 'ArcFaceLoss'\npooler = 'GeM'\nseed = 9\nbatch_size = 'auto'\nmax_grad_norm = 1\n\
             [loss_options]\nmargin = '28.6deg'\nscale = 0.1\n[optimizer_options]\nbetas = [0.8, 0.99]\n\
             [pooler_options]\neps = 1e-5\n[scheduler_options]\nnum_warmup_steps = 0.1\n\
             [callbacks]\nbest_model = true\n[[param_groups]]\nparams = ['*.bias']\nlearning_rate = 0.1\n\
             [[param_groups]]\nparams = ['a', 'b\\n']\n",
        )
        .unwrap();
        same(&options);
        same(&RunOptions::default());
        for spec in
            [EncoderSpec::cnn([1, 28, 28], 8).unwrap(), EncoderSpec::mlp(3, None), EncoderSpec::text(4)]
        {
            let source = DataRecord { source: "x \"y\"\n'''".into(), checksum: "00ff".into() };
            let mut run = RunFile::new(options.clone(), spec, vec!["a".into(), "ß".into()], source, true);
            same(&run);
            run.notices = vec!["one\ntwo".into()];
            same(&run);
        }
    }

    #[test]
    fn what_toml_cannot_hold_is_an_error() {
        assert!(to_toml(&vec![Option::<u8>::None]).is_err());
        assert!(to_toml(&BTreeMap::from([("a", ())])).is_err());
        assert!(to_toml(&BTreeMap::from([(1.5f32.to_bits(), 1)])).is_err());
    }
}
