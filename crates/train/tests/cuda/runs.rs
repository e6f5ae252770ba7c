use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use embedtune_losses::LossKind;
use embedtune_train::Error;
use embedtune_train::data::Split;
use embedtune_train::head::CentreSpace;
use embedtune_train::optim::OptimizerKind;
use embedtune_train::run::{
    Device, DeviceOptions, DevicePrecision, DeviceProducts, Resumed, RunBuilder, RunFolder, RunOptions,
    Trainer, resume,
};

use crate::support::{Recorder, noisy_vectors};

fn options(loss: LossKind, device: Device) -> RunOptions {
    RunOptions { loss, device, epochs: 2, batch_size: 32, seed: 3, ..RunOptions::default() }
}

fn builder(options: RunOptions) -> RunBuilder {
    Trainer::builder().options(options)
}

/// The loss of every batch.
fn trained(options: RunOptions, split: &Split) -> Vec<f64> {
    let mut recorder = Recorder::default();
    builder(options).build(split).unwrap().fit(&mut recorder).unwrap();
    recorder.batches.iter().map(|batch| batch.loss).collect()
}

/// Losses that rounding, which the steps carry on, lets differ a little.
#[track_caller]
fn near(gpu: &[f64], cpu: &[f64]) {
    assert_eq!(gpu.len(), cpu.len());
    for (gpu, cpu) in gpu.iter().zip(cpu) {
        assert!((gpu - cpu).abs() <= 1e-3 * cpu.abs().max(0.1), "{gpu} on the GPU, {cpu} on the CPU");
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_run_on_the_gpu_is_the_run_on_the_cpu() {
    let split = noisy_vectors(12);
    for loss in [LossKind::ArcFaceLoss, LossKind::SubCenterArcFaceLoss, LossKind::TripletMarginLoss] {
        for gradient_accumulation_steps in [1, 2] {
            let on = |device| RunOptions { gradient_accumulation_steps, ..options(loss, device) };
            let gpu = trained(on(Device::Cuda), &split);
            near(&gpu, &trained(on(Device::Cpu), &split));
            assert_eq!(gpu, trained(on(Device::Auto), &split), "the same bits on every run");
        }
    }
}

const F16: DeviceOptions = DeviceOptions { precision: DevicePrecision::F16, products: DeviceProducts::Own };

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn f16_is_near_and_coarser() {
    let split = noisy_vectors(12);
    let on = |device, device_options| RunOptions { device_options, ..options(LossKind::ArcFaceLoss, device) };
    let cpu = trained(on(Device::Cpu, DeviceOptions::default()), &split);
    let [f32, f16] = [DeviceOptions::default(), F16].map(|how| trained(on(Device::Cuda, how), &split));
    let off = |run: &[f64]| {
        run.iter().zip(&cpu).map(|(a, b)| (a - b).abs() / b.abs().max(0.1)).fold(0.0f64, f64::max)
    };
    assert!(off(&f16) < 3e-2 && off(&f32) * 3.0 < off(&f16), "f32 {} f16 {}", off(&f32), off(&f16));
    let again = trained(on(Device::Auto, F16), &split);
    assert_eq!(f16, again, "the same bits on every run");
    let trainer = builder(on(Device::Auto, F16)).build(&split).unwrap();
    let told = trainer.notices().iter().any(|notice| notice.contains(" in f16, the encoder on the CPU"));
    assert!(told, "{:?}", trainer.notices());
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn products_are_chosen() {
    let split = noisy_vectors(4);
    let with = |products| {
        let device_options = DeviceOptions { products, ..DeviceOptions::default() };
        RunOptions { device_options, ..options(LossKind::CosFaceLoss, Device::Cuda) }
    };
    // There is no cuBLAS beside the stand-in, so that ours are the faster.
    let own = trained(with(DeviceProducts::Own), &split);
    assert_eq!(trained(with(DeviceProducts::Faster), &split), own);
    let error = builder(with(DeviceProducts::Cublas)).build(&split).err().unwrap().to_string();
    assert!(error.starts_with("device = cuda: cuBLAS was asked for and is not here ("), "{error}");
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn centres_on_the_gpu_are_not_counted_on_the_host() {
    let split = noisy_vectors(8);
    let forecast = |device, gradient_accumulation_steps| {
        let options = RunOptions { gradient_accumulation_steps, ..options(LossKind::ArcFaceLoss, device) };
        let trainer = builder(options).build(&split).unwrap();
        (trainer.forecast(), trainer.encoder().output_dim(), split.train.classes.len())
    };
    let (cpu, ..) = forecast(Device::Cpu, 1);
    let (gpu, dim, classes) = forecast(Device::Cuda, 1);
    let centres = 4 * classes * dim;
    // What is watched stays; the centres, their gradient and Adam's two moments do not.
    assert_eq!(cpu.centres - gpu.centres, 4 * centres);
    assert!(cpu.device.is_none() && gpu.step < cpu.step, "{cpu:?} {gpu:?}");
    let device = gpu.device.unwrap();
    assert!(device > 3 * centres, "{gpu:?}");
    // The accumulated gradient is one more.
    assert_eq!(forecast(Device::Cuda, 2).0.device.unwrap() - device, centres);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn the_device_is_told() {
    let split = noisy_vectors(4);
    for device in [Device::Cuda, Device::Auto] {
        let trainer = builder(options(LossKind::ArcFaceLoss, device)).build(&split).unwrap();
        let expected = format!("device = {}: ArcFaceLoss on the GPU (", device.name());
        assert!(
            trainer.notices().iter().any(|notice| notice.starts_with(&expected)),
            "{:?}",
            trainer.notices()
        );
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn what_the_gpu_cannot_do_is_refused_or_done_on_the_cpu() {
    let split = noisy_vectors(4);
    let arc = |change: fn(&mut RunOptions)| {
        let mut options = options(LossKind::ArcFaceLoss, Device::Cuda);
        change(&mut options);
        options
    };
    for (mut options, reason) in [
        (arc(|o| o.loss_optimizer = Some(OptimizerKind::RmsProp)), "loss_optimizer = RMSprop: "),
        (arc(|o| o.centers = CentreSpace::UnitSphere), "centers = unit_sphere: "),
        (
            arc(|o| (o.loss, o.device_options) = (LossKind::TripletMarginLoss, F16)),
            "device_options with precision = f16 and products = own: TripletMarginLoss ",
        ),
        (arc(|o| (o.loss, o.memory_size) = (LossKind::TripletMarginLoss, 64)), "memory_size = 64: "),
        (
            arc(|o| {
                (o.loss, o.loss_options.sub_centers) = (LossKind::SubCenterArcFaceLoss, Some(17));
            }),
            "SubCenterArcFaceLoss with sub_centers = 17: ",
        ),
    ] {
        let error = builder(options.clone()).build(&split).err().unwrap();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        assert!(error.to_string().starts_with(&format!("device = cuda: {reason}")), "{error}");
        options.device = Device::Auto;
        let trainer = builder(options).build(&split).unwrap();
        let expected = format!("device = auto: computing on the CPU ({reason}");
        assert_eq!(trainer.notices().iter().filter(|notice| notice.starts_with(&expected)).count(), 1);
    }
    // What no device can do is the option's own error.
    let wrong = arc(|o| o.loss_optimizer_options.momentum = Some(0.9));
    for device in [Device::Cuda, Device::Auto] {
        let error = builder(RunOptions { device, ..wrong.clone() }).build(&split).err().unwrap().to_string();
        assert!(error.starts_with("loss_optimizer_options.momentum = 0.9: "), "{error}");
    }
}

fn interrupted(options: RunOptions, split: &Split, folder: &Path, batches: usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut observer = Recorder { stop_after: Some((batches, stop.clone())), ..Recorder::default() };
    let run = builder(options).folder(folder).stop(stop).build(split).unwrap().fit(&mut observer);
    assert!(matches!(run, Err(Error::Interrupted { .. })));
}

fn continued(split: &Split, folder: &Path) -> Vec<f64> {
    let Resumed::Ready(trainer) = resume(&RunFolder::new(folder), split, None).unwrap() else {
        panic!("an interrupted run is not finished");
    };
    let mut recorder = Recorder::default();
    trainer.fit(&mut recorder).unwrap();
    recorder.batches.iter().map(|batch| batch.loss).collect()
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_run_continues_on_either_device() {
    let split = noisy_vectors(12);
    let folder = tempfile::tempdir().unwrap();
    let of = |device| options(LossKind::ArcFaceLoss, device);
    let (cpu, gpu) = (trained(of(Device::Cpu), &split), trained(of(Device::Cuda), &split));
    for (began, goes_on) in
        [(Device::Cuda, Device::Cuda), (Device::Cuda, Device::Cpu), (Device::Cpu, Device::Cuda)]
    {
        let at = folder.path().join(format!("{}-{}", began.name(), goes_on.name()));
        interrupted(of(began), &split, &at, 2);
        let file = RunFolder::new(&at).run_file();
        let text = std::fs::read_to_string(&file).unwrap();
        let [from, to] = [began, goes_on].map(|device| format!("\ndevice = \"{}\"", device.name()));
        assert!(text.contains(&from), "{text}");
        std::fs::write(&file, text.replace(&from, &to)).unwrap();
        let rest = continued(&split, &at);
        near(&rest, &cpu[2..]);
        if began == goes_on {
            assert_eq!(rest, gpu[2..], "the same bits as without the break");
        }
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_run_in_f16_continues_on_the_cpu() {
    let split = noisy_vectors(12);
    let folder = tempfile::tempdir().unwrap();
    let began = RunOptions { device_options: F16, ..options(LossKind::ArcFaceLoss, Device::Cuda) };
    interrupted(began, &split, folder.path(), 2);
    let file = RunFolder::new(folder.path()).run_file();
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text.replace("\ndevice = \"cuda\"", "\ndevice = \"cpu\"");
    std::fs::write(&file, &changed).unwrap();
    let refused = resume(&RunFolder::new(folder.path()), &split, None).err().unwrap().to_string();
    assert!(refused.contains("device_options.precision = f16: the CPU computes in f32"), "{refused}");
    std::fs::write(&file, changed.replace("precision = \"f16\"", "precision = \"f32\"")).unwrap();
    assert!(!continued(&split, folder.path()).is_empty());
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn models_start_from_models_of_either_device() {
    let split = noisy_vectors(8);
    let folder = tempfile::tempdir().unwrap();
    let of = |device| options(LossKind::CosFaceLoss, device);
    let first = folder.path().join("first");
    builder(of(Device::Cuda)).folder(&first).build(&split).unwrap().fit(&mut ()).unwrap();
    let from = |device| RunOptions { init_from: Some(first.display().to_string()), ..of(device) };
    near(&trained(from(Device::Cuda), &split), &trained(from(Device::Cpu), &split));
}
