//! The training step of `benches/peers/training.py`, by burn on its fastest CPU backend (flex).

#[path = "../../protocol.rs"]
mod protocol;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Int, Tensor, TensorData};
use protocol::{Case, Outcome};

const MARGIN: f32 = 0.35;
const SCALE: f32 = 64.0;
const CHANNELS: [usize; 3] = [32, 64, 128];

#[derive(Module, Debug)]
struct Network {
    convolutions: Vec<Conv2d>,
    norms: Vec<BatchNorm>,
    pool: MaxPool2d,
    power: Param<Tensor<1>>,
    linear: Linear,
    centres: Param<Tensor<2>>,
}

impl Network {
    fn load(case: &Case, device: &Device) -> Outcome<Self> {
        let (mut convolutions, mut norms, mut fan_in) = (Vec::new(), Vec::new(), 1);
        for (index, out) in CHANNELS.into_iter().enumerate() {
            let mut convolution = Conv2dConfig::new([fan_in, out], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(false)
                .init(device);
            let weight = TensorData::new(case.floats(&format!("conv{index}"))?, [out, fan_in, 3, 3]);
            convolution.weight = Param::from_tensor(Tensor::from_data(weight, device));
            convolutions.push(convolution);
            norms.push(BatchNormConfig::new(out).init(device));
            fan_in = out;
        }
        let (dim, classes) = (case.size("dim")?, case.size("classes")?);
        let mut linear = LinearConfig::new(fan_in, dim).init(device);
        let weight = TensorData::new(case.floats("linear_weight")?, [dim, fan_in]);
        // A linear layer's weight is `[in, out]` here.
        linear.weight = Param::from_tensor(Tensor::<2>::from_data(weight, device).transpose());
        let bias = TensorData::new(case.floats("linear_bias")?, [dim]);
        linear.bias = Some(Param::from_tensor(Tensor::from_data(bias, device)));
        let centres = TensorData::new(case.floats("centres")?, [classes, dim]);
        Ok(Self {
            convolutions,
            norms,
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            power: Param::from_tensor(Tensor::from_data(TensorData::new(vec![3f32], [1]), device)),
            linear,
            centres: Param::from_tensor(Tensor::from_data(centres, device)),
        })
    }

    fn loss(&self, images: Tensor<4>, labels: Tensor<1, Int>) -> Tensor<1> {
        let mut x = images;
        for (index, (convolution, norm)) in self.convolutions.iter().zip(&self.norms).enumerate() {
            x = relu(norm.forward(convolution.forward(x)));
            if index < 2 {
                x = self.pool.forward(x);
            }
        }
        // GeM; a broadcast power by way of the logarithm.
        let power = self.power.val();
        let raised = (x.clamp_min(1e-6).log() * power.clone().reshape([1, 1, 1, 1])).exp();
        let [batch, channels, height, width] = raised.dims();
        let mean = raised.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels]);
        let x = (mean.log() / power.reshape([1, 1])).exp();
        let x = self.linear.forward(x);
        let unit = |x: Tensor<2>| x.clone() / x.powi_scalar(2).sum_dim(1).sqrt();
        let cosines = unit(x).matmul(unit(self.centres.val()).transpose());
        let targets: Tensor<2> = labels.one_hot(cosines.dims()[1]).float();
        let logits = (cosines - targets.clone() * MARGIN) * SCALE;
        (log_softmax(logits, 1) * targets).sum().neg() / batch as f32
    }
}

fn main() -> Outcome<()> {
    let (case, device) = (Case::from_arguments()?, Device::flex().autodiff());
    let (images, labels) = (case.bytes("images")?, case.integers("labels")?);
    let (batch, rate) = (case.size("batch")?, case.number("rate")?);
    let pixels = images.len() / labels.len();
    case.serve("burn", || {
        let mut network = Network::load(&case, &device)?;
        let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
        let mut losses = Vec::new();
        for (images, labels) in images.chunks(batch * pixels).zip(labels.chunks(batch)) {
            let images: Vec<f32> = images.iter().map(|&byte| f32::from(byte) / 255.0).collect();
            let x = Tensor::from_data(TensorData::new(images, [labels.len(), 1, 28, 28]), &device);
            let y = Tensor::from_data(TensorData::new(labels.to_vec(), [labels.len()]), &device);
            let loss = network.loss(x, y);
            losses.push(f64::from(loss.clone().into_scalar::<f32>()));
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            network = optimizer.step(rate, network, gradients);
        }
        Ok(losses)
    })
}
