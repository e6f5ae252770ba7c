//! `embedtune export`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use embedtune_train::encoder::InputSpec;
use embedtune_train::run::{Model, RunFolder};
use embedtune_train::{Error, Result, export, io};

use crate::print;

/// The arguments of `export`.
#[derive(Args)]
pub(crate) struct Export {
    /// The run's folder.
    #[arg(long)]
    run: PathBuf,
    /// What to write. Default: what the file's name says, .onnx or .safetensors.
    #[arg(long, value_enum)]
    format: Option<Format>,
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
    let format = match args.format {
        Some(format) => format,
        None => named(&args.out)?,
    };
    io::check_place(&args.out)?;
    let model = Model::load(&RunFolder::new(&args.run))?;
    let bytes = match format {
        Format::Onnx => export::onnx(&model.encoder, &model.classes)?,
        Format::Safetensors => export::safetensors(&model.encoder, &model.head, &model.classes)?,
    };
    io::write_atomically(&args.out, &bytes)?;
    let (dim, size) = (model.encoder.output_dim(), bytes.len());
    let inputs = match format {
        Format::Onnx => format!("inputs   {}\noutput   embeddings [batch, {dim}]\n", inputs(&model)),
        Format::Safetensors => String::new(),
    };
    print(&format!(
        "encoder of embeddings of length {dim}, {size} bytes, in {}\n{inputs}",
        args.out.display()
    ))
}

fn named(out: &Path) -> Result<Format> {
    match out.extension().and_then(|ending| ending.to_str()) {
        Some("onnx") => Ok(Format::Onnx),
        Some("safetensors") => Ok(Format::Safetensors),
        _ => {
            let remedy =
                "its ending names no format; write a name that ends in .onnx or .safetensors, or --format";
            Err(Error::option("out", out.display(), remedy))
        }
    }
}

/// What the graph takes, in words.
fn inputs(model: &Model) -> String {
    match model.encoder.spec().input {
        InputSpec::Image { channels, height, width } => format!(
            "pixels [batch, {channels}, {height}, {width}], 0 to 1; images of another size are resized with a triangle \
             filter, photographs turned upright before (Pillow: ImageOps.exif_transpose, then resize(({width}, {height}), \
             BILINEAR))"
        ),
        InputSpec::Vector { dim } => format!("vectors [batch, {dim}]"),
        InputSpec::Sequence { dim } => {
            format!("tokens [batch, tokens, {dim}], mask [batch, tokens]: 1 for a token that counts")
        }
        InputSpec::Text(_) => {
            "ids and weights [batch, tokens], made as the metadata `tokens` says".to_owned()
        }
        ref other => format!("{other:?}"),
    }
}
