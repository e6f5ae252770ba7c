//! `embedtune export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use embedtune_train::run::{Model, RunFolder};
use embedtune_train::{Result, export, io};

use crate::print;

/// The arguments of `export`.
#[derive(Args)]
pub(crate) struct Export {
    /// The run's folder.
    #[arg(long)]
    run: PathBuf,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// A graph of the encoder, opset 17: from items to embeddings, not normalised.
    Onnx,
    /// The weights by name, with the layers as JSON in the metadata.
    Safetensors,
}

pub(crate) fn run(args: &Export) -> Result<()> {
    let model = Model::load(&RunFolder::new(&args.run))?;
    let bytes = match args.format {
        Format::Onnx => export::onnx(&model.encoder, &model.classes)?,
        Format::Safetensors => export::safetensors(&model.encoder, &model.head, &model.classes)?,
    };
    io::write_atomically(&args.out, &bytes)?;
    let (dim, size) = (model.encoder.output_dim(), bytes.len());
    print(&format!("encoder of embeddings of length {dim}, {size} bytes, in {}\n", args.out.display()))
}
