//! Where one training step of the convolutional encoder spends its time: each layer forward and backward at a batch
//! of 128 Fashion-MNIST images, beside the bare matrix products of the same sizes. `step_profile [ROUNDS]`.
//!
//! Times are the CPU time of one thread, so that other work on the machine distorts them little.

use embedtune_benches::network::{self, BATCH, CONVOLUTIONS, Layer};
use embedtune_benches::peer::Outcome;
use embedtune_core::{Pool, Tape, linalg};
use ndarray::Array2;
use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread in milliseconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    1e3 * time.tv_sec as f64 + 1e-6 * time.tv_nsec as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median milliseconds of the forward and the backward pass.
fn layer(layer: &Layer, pool: &Pool, rounds: usize) -> Outcome<[f64; 2]> {
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for _ in 0..=rounds {
        let tape = Tape::new(pool);
        let leaves = layer.leaves(&tape);
        let start = cpu();
        let y = layer.apply(&leaves)?;
        let between = cpu();
        let upstream = layer.upstream(y, pool)?;
        let ready = cpu();
        let mut grads = tape.backward_from(y, upstream)?;
        let end = cpu();
        forward.push(between - start);
        backward.push(end - ready);
        network::give_back(&mut grads, &leaves, pool);
    }
    // The first round warms caches and buffers up.
    Ok([median(forward.split_off(1)), median(backward.split_off(1))])
}

/// Milliseconds of the bare product `[m, k] x [k, n]`.
fn product([m, k, n]: [usize; 3], rounds: usize) -> Outcome<f64> {
    let (a, b, mut c) = (Array2::ones((m, k)), Array2::ones((k, n)), Array2::zeros((m, n)));
    let mut times = Vec::new();
    for _ in 0..=rounds {
        let start = cpu();
        linalg::matmul_serial(1.0, a.view(), b.view(), 0.0, c.view_mut())?;
        times.push(cpu() - start);
    }
    Ok(median(times.split_off(1)))
}

fn profile(rounds: usize) -> Outcome<()> {
    println!("{:<28} {:>9} {:>9} {:>9} {:>9}", "layer", "forward", "backward", "products", "GFLOP/s");
    let pool = Pool::new();
    let (mut total, mut bare) = (0.0, 0.0);
    for item in network::layers() {
        let [forward, backward] = layer(&item, &pool, rounds)?;
        total += forward + backward;
        print!("{:<28} {forward:>9.2} {backward:>9.2}", item.name);
        if let Some([m, k, n]) = item.product {
            // The forward product, and as many of the same size backward as there are gradients.
            let count = if item.input_gradient { 3 } else { 2 };
            let once = product([m, k, n], rounds)?;
            bare += once * f64::from(count);
            let rate = 2e-6 * (m * k * n) as f64 * f64::from(count) / (forward + backward);
            print!(" {:>9.2} {rate:>9.1}", once * f64::from(count));
        }
        println!();
    }
    let images = 1e3 * BATCH as f64 / total;
    println!("all layers {total:.1} ms ({images:.0} images/s a thread), their products {bare:.1} ms");
    println!("{} convolutions", CONVOLUTIONS.len());
    Ok(())
}

fn main() -> Outcome<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(9), |rounds| rounds.parse())?;
    // This thread is the pool's only one: all work is on its clock.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build()?;
    Ok(one.install(|| profile(rounds).map_err(|error| error.to_string()))?)
}
