//! `embedtune embed`.

use std::path::{Path, PathBuf};

use clap::Args;
use embedtune_train::data::Stream;
use embedtune_train::export::{VectorFormat, VectorWriter};
use embedtune_train::retrieval::Progress;
use embedtune_train::run::{Model, RunFolder};
use embedtune_train::{Error, Result, io};

use crate::apply;
use crate::names::Names;
use crate::print;
use crate::work::Work;

/// Items that are in memory at a time.
const BLOCK: usize = 1024;

/// The end of `embed --help`.
pub(crate) const INPUTS: &str = "\
--input is of the kind that the run was trained on, without labels:

  vectors    .npy, .npz or .safetensors, [items, dim]; or .parquet with a column vector (where the program is
             built with the feature parquet)
  sequences  .npz or .safetensors with tokens, [items, tokens, dim], and mask, [items, tokens]
  text       .csv with a column text (or query, sentence, item, utterance), or .txt with a text a line; or
             .parquet with a column text
  images     a folder of .png, .jpg or .jpeg files, in the order of their paths

Files are read a block at a time and rows are written as they are computed, so that neither is in memory as
a whole; a file appears under its name when it is whole.";

/// The arguments of `embed`.
#[derive(Args)]
pub(crate) struct Embed {
    /// The run's folder.
    #[arg(long)]
    run: PathBuf,
    /// Folder with data, of which the evaluation items are embedded. Default: the run's own.
    #[arg(long)]
    data: Option<PathBuf>,
    /// File or folder of items without labels (see `embed --help`) instead.
    #[arg(long, conflicts_with = "data")]
    input: Option<PathBuf>,
    /// The file to write, in the order of the items: .npy, .csv or .safetensors.
    #[arg(long)]
    out: PathBuf,
    /// Also write which row is which item: CSV with columns row and item (an image's file, or a text).
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
}

/// Refuses to write two results, or a result and what it is made from, into one file, however it is called.
fn check_apart(args: &Embed) -> Result<()> {
    let (out, names) = (place(&args.out), args.names.as_deref().map(place));
    if let (Some(path), true) = (&args.names, names.as_ref() == Some(&out)) {
        return Err(Error::option("names", path.display(), "is the file of the embeddings; name another"));
    }
    let input = args.input.as_deref().map(place);
    for (option, path, place) in [("out", Some(&args.out), Some(out)), ("names", args.names.as_ref(), names)]
    {
        if let (Some(path), true) = (path, place.is_some() && place == input) {
            return Err(Error::option(option, path.display(), "is the input; name another file"));
        }
    }
    Ok(())
}

/// Where a path leads: two that lead to one file are equal.
fn place(path: &Path) -> PathBuf {
    let whole = || path.canonicalize().ok();
    let in_folder = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(folder.canonicalize().ok()?.join(path.file_name()?))
    };
    whole().or_else(in_folder).unwrap_or_else(|| path.to_path_buf())
}

pub(crate) fn run(args: &Embed, work: Work) -> Result<()> {
    let format = VectorFormat::of(&args.out)?;
    io::check_place(&args.out)?;
    args.names.as_deref().map_or(Ok(()), io::check_place)?;
    check_apart(args)?;
    work.stage("reading the data", "items", 0);
    let (model, mut items) = match &args.input {
        None => {
            let (model, split) = apply::open(&args.run, args.data.as_deref())?;
            (model, Stream::of(split.queries.items))
        }
        Some(input) => {
            let model = Model::load(&RunFolder::new(&args.run))?;
            let items = Stream::open(input, &model.options.data_options)?;
            (model, items)
        }
    };
    work.stage("embedding", "items", items.len().unwrap_or(0));
    let mut writer: Option<VectorWriter> = None;
    let mut names: Option<Names> = None;
    let mut first = 0;
    while let Some(block) = items.next(BLOCK)? {
        let vectors = model.embed_block(&block, first, &mut |done| work.advance(done as u64))?;
        first += vectors.nrows();
        // After the first block: an input of the wrong kind must not touch the place.
        let to = match &mut writer {
            Some(writer) => writer,
            None => writer.insert(VectorWriter::new(&args.out, format, model.encoder.output_dim())?),
        };
        to.push(vectors.view())?;
        if let Some(path) = &args.names {
            let to = match &mut names {
                Some(names) => names,
                None => names.insert(Names::create(path)?),
            };
            to.push(&block)?;
        }
    }
    let dim = model.encoder.output_dim();
    let writer = match writer {
        Some(writer) => writer,
        None => VectorWriter::new(&args.out, format, dim)?,
    };
    // The list first: embeddings that stood in their place are replaced last.
    if let Some(path) = &args.names {
        match names {
            Some(names) => names.finish()?,
            None => Names::create(path)?.finish()?,
        }
    }
    let rows = writer.finish()?;
    drop(work);
    print(&format!("{rows} embeddings of length {dim} in {}\n", args.out.display()))
}
