//! The training step of `benches/peers/training.py`, by candle.

#[path = "../../protocol.rs"]
mod protocol;

use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{BatchNorm, Optimizer, ParamsAdamW, ops::log_softmax};
use protocol::{Case, Outcome};

const MARGIN: f64 = 0.35;
const SCALE: f64 = 64.0;
const CHANNELS: [usize; 3] = [32, 64, 128];

struct Network {
    convolutions: Vec<Var>,
    norms: Vec<BatchNorm>,
    scales: Vec<[Var; 2]>,
    power: Var,
    linear: [Var; 2],
    centres: Var,
}

impl Network {
    fn load(case: &Case, device: &Device) -> Outcome<Self> {
        let load = |name: &str, shape: &[usize]| -> Outcome<Var> {
            Ok(Var::from_tensor(&Tensor::from_vec(case.floats(name)?, shape, device)?)?)
        };
        let (mut convolutions, mut norms, mut scales, mut fan_in) = (Vec::new(), Vec::new(), Vec::new(), 1);
        for (index, out) in CHANNELS.into_iter().enumerate() {
            convolutions.push(load(&format!("conv{index}"), &[out, fan_in, 3, 3])?);
            let (one, zero) = (Var::ones(out, DType::F32, device)?, Var::zeros(out, DType::F32, device)?);
            norms.push(BatchNorm::new(
                out,
                Tensor::zeros(out, DType::F32, device)?,
                Tensor::ones(out, DType::F32, device)?,
                one.as_tensor().clone(),
                zero.as_tensor().clone(),
                1e-5,
            )?);
            scales.push([one, zero]);
            fan_in = out;
        }
        let (dim, classes) = (case.size("dim")?, case.size("classes")?);
        Ok(Self {
            convolutions,
            norms,
            scales,
            power: Var::from_vec(vec![3f32], 1, device)?,
            linear: [load("linear_weight", &[dim, fan_in])?, load("linear_bias", &[dim])?],
            centres: load("centres", &[classes, dim])?,
        })
    }

    fn variables(&self) -> Vec<Var> {
        let mut all = self.convolutions.clone();
        all.extend(self.scales.iter().flatten().cloned());
        all.extend(self.linear.iter().chain([&self.power, &self.centres]).cloned());
        all
    }

    fn loss(&self, images: &Tensor, labels: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = images.clone();
        for (index, (weight, norm)) in self.convolutions.iter().zip(&self.norms).enumerate() {
            x = norm.forward_train(&x.conv2d(weight, 1, 1, 1, 1)?)?.relu()?;
            if index < 2 {
                x = x.max_pool2d(2)?;
            }
        }
        // GeM; a broadcast power by way of the logarithm, as there is none with a gradient for the exponent.
        let raised = x.clamp(1e-6, f64::INFINITY)?.log()?.broadcast_mul(&self.power)?.exp()?;
        let mean = raised.mean((2, 3))?;
        let x = mean.log()?.broadcast_div(&self.power)?.exp()?;
        let x = x.matmul(&self.linear[0].t()?)?.broadcast_add(&self.linear[1])?;
        let unit = |x: &Tensor| x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?);
        let cosines = unit(&x)?.matmul(&unit(self.centres.as_tensor())?.t()?)?;
        let classes = cosines.dim(1)?;
        let range = Tensor::arange(0u32, u32::try_from(classes).unwrap_or(u32::MAX), images.device())?;
        let targets = labels.unsqueeze(1)?.broadcast_eq(&range.unsqueeze(0)?)?.to_dtype(DType::F32)?;
        let logits = ((cosines - (&targets * MARGIN)?)? * SCALE)?;
        (log_softmax(&logits, D::Minus1)? * targets)?.sum_all()?.neg()? / labels.dim(0)? as f64
    }
}

fn main() -> Outcome<()> {
    let (case, device) = (Case::from_arguments()?, Device::Cpu);
    let (images, labels) = (case.bytes("images")?, case.integers("labels")?);
    let labels: Vec<u32> = labels.into_iter().map(u32::try_from).collect::<Result<_, _>>()?;
    let (batch, rate) = (case.size("batch")?, case.number("rate")?);
    let pixels = images.len() / labels.len();
    case.serve("candle", || {
        let network = Network::load(&case, &device)?;
        let options = ParamsAdamW { lr: rate, weight_decay: 0.0, ..ParamsAdamW::default() };
        let mut optimizer = candle_nn::AdamW::new(network.variables(), options)?;
        let mut losses = Vec::new();
        for (images, labels) in images.chunks(batch * pixels).zip(labels.chunks(batch)) {
            let shape = (labels.len(), 1, 28, 28);
            let x = Tensor::from_slice(images, shape, &device)?.to_dtype(DType::F32)?;
            let y = Tensor::from_slice(labels, labels.len(), &device)?;
            let loss = network.loss(&(x / 255.0)?, &y)?;
            optimizer.backward_step(&loss)?;
            losses.push(f64::from(loss.to_scalar::<f32>()?));
        }
        Ok(losses)
    })
}
