//! What becomes of a tile of centres: its gradient, or an optimizer's step.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::{Centres, MarginSoftmax};
use crate::kernels::{Arg, Args, Shape};
use crate::{Result, Storage, Write};

impl MarginSoftmax {
    pub(super) fn move_centres<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        centres: &mut Centres<'_, '_, W>,
        range: std::ops::Range<usize>,
        classes: usize,
        args: Args<'_>,
    ) -> Result<()> {
        let (kernels, shape) = (&self.kernels, Shape::warps(classes));
        match centres {
            Centres::Frozen(_) => Ok(()),
            Centres::Gradient(w, dw, write) => {
                let (w, mut dw) = (w.slice(range.clone()), dw.slice_mut(range));
                let args = args.read(&w, stream).write(&mut dw, stream).flag(*write == Write::Add);
                kernels.launch(stream, &format!("centre_gradient_{}", W::SUFFIX), shape, args)
            }
            Centres::Sgd(w, buffer, options) => {
                let mut w = w.slice_mut(range.clone());
                let mut buffer = match buffer {
                    Some(buffer) if options.momentum > 0.0 => Some(buffer.slice_mut(range)),
                    _ => None,
                };
                let first = options.first_step;
                let args = args.write(&mut w, stream);
                let args = match &mut buffer {
                    Some(buffer) => args.write(buffer, stream),
                    None => args.arg(Arg::NULL),
                };
                let args = args
                    .arg(Arg::Float(options.rate as f32))
                    .arg(Arg::Float(options.weight_decay as f32))
                    .arg(Arg::Float(options.momentum as f32))
                    .arg(Arg::Float(if first { 0.0 } else { options.momentum as f32 }))
                    .arg(Arg::Float(if first { 1.0 } else { (1.0 - options.dampening) as f32 }))
                    .flag(options.nesterov);
                kernels.launch(stream, "centre_sgd", shape, args)
            }
            Centres::Adam(w, [first, second], options) => {
                let mut w = w.slice_mut(range.clone());
                let (mut first, mut second) = (first.slice_mut(range.clone()), second.slice_mut(range));
                let (b1, b2) = options.betas;
                // Corrections in f64: 1 - b2^t loses half its digits in f32 at the first steps.
                let t = options.step as f64;
                let (shrink, decay) = match options.decoupled {
                    true => (1.0 - options.rate * options.weight_decay, 0.0),
                    false => (1.0, options.weight_decay),
                };
                let numbers = [
                    options.rate / (1.0 - b1.powf(t)),
                    (1.0 - b2.powf(t)).sqrt(),
                    options.eps,
                    shrink,
                    decay,
                    1.0 - b1,
                    b2,
                    1.0 - b2,
                ];
                let args = args.write(&mut w, stream).write(&mut first, stream).write(&mut second, stream);
                let args = numbers.iter().fold(args, |args, &v| args.arg(Arg::Float(v as f32)));
                kernels.launch(stream, "centre_adam", shape, args)
            }
        }
    }
}
