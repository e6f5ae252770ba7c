//! The queue and its state.

use embedtune_core::Pool;
use embedtune_losses::memory::MemoryState;
use embedtune_losses::{CrossBatchMemory, Error, GradsMut, Input, Loss, TripletMargin, Workspace};
use ndarray::{Array2, array};

fn batch(step: usize, rows: usize) -> (Array2<f32>, Vec<u32>) {
    let x = Array2::from_shape_fn((rows, 2), |(i, j)| (100 * step + 10 * i + j) as f32);
    (x, (0..rows).map(|i| (10 * step + i) as u32).collect())
}

#[test]
fn the_newest_rows_stay_and_know_their_items() {
    let mut memory = CrossBatchMemory::new(5, 2).unwrap();
    assert!(memory.is_empty() && memory.reference().labels.is_empty());
    let mut all = Vec::new();
    for step in 0..7 {
        let (x, labels) = batch(step, 3);
        memory.push(x.view(), &labels).unwrap();
        all.extend(labels.iter().copied());
        let reference = memory.reference();
        assert_eq!(memory.len(), all.len().min(5));
        let mut held = reference.labels.to_vec();
        held.sort_unstable();
        assert_eq!(held, all[all.len() - memory.len()..]);
        for (i, &slot) in reference.same_item.unwrap().iter().enumerate() {
            assert_eq!(reference.labels[slot as usize], labels[i]);
            assert_eq!(reference.embeddings.row(slot as usize), x.row(i));
        }
        assert!(memory.past().same_item.is_none());
    }
}

#[test]
fn a_batch_beyond_the_capacity_leaves_its_last_rows() {
    let mut memory = CrossBatchMemory::new(3, 2).unwrap();
    let (x, labels) = batch(0, 5);
    memory.push(x.view(), &labels).unwrap();
    assert_eq!(memory.reference().labels, [2, 3, 4]);
    assert_eq!(memory.reference().same_item, Some(&[u32::MAX, u32::MAX, 0, 1, 2][..]));
}

#[test]
fn a_restored_queue_goes_on_as_the_first() {
    let mut memory = CrossBatchMemory::new(5, 2).unwrap();
    for step in 0..6 {
        let text = serde_json::to_string(&memory).unwrap();
        let mut restored: CrossBatchMemory = serde_json::from_str(&text).unwrap();
        let (x, labels) = batch(step, 3);
        memory.push(x.view(), &labels).unwrap();
        restored.push(x.view(), &labels).unwrap();
        assert_eq!(memory, restored, "step {step}");
    }
}

#[test]
fn damaged_states_and_wrong_batches_are_errors() {
    let state = |capacity, next, rows: usize| MemoryState {
        capacity,
        dim: 2,
        next,
        embeddings: vec![0.0; 2 * rows],
        labels: vec![0; rows],
    };
    assert!(CrossBatchMemory::from_state(state(4, 2, 2)).is_ok());
    assert!(CrossBatchMemory::from_state(state(4, 3, 4)).is_ok());
    for (capacity, next, rows) in [(0, 0, 0), (4, 1, 2), (4, 4, 4), (4, 0, 5), (usize::MAX, 0, 0)] {
        assert!(
            CrossBatchMemory::from_state(state(capacity, next, rows)).is_err(),
            "{capacity} {next} {rows}"
        );
    }
    let mut short = state(4, 2, 2);
    short.embeddings.pop();
    assert!(matches!(CrossBatchMemory::from_state(short), Err(Error::Shape { .. })));
    let mut memory = CrossBatchMemory::new(4, 2).unwrap();
    assert!(memory.push(array![[1.0f32, f32::NAN]].view(), &[0]).is_err());
    assert!(memory.push(array![[1.0f32]].view(), &[0]).is_err());
    assert!(memory.push(array![[1.0f32, 2.0]].view(), &[]).is_err());
    assert!(memory.is_empty());
}

/// As a loop of one's own uses it: one workspace, from the first batch on.
#[test]
fn a_memory_that_fills_leaves_no_buffers_of_its_past_lengths() {
    let loss = TripletMargin::builder().build().unwrap();
    let bytes = |first: usize| {
        let pool = Pool::new();
        let mut work = Workspace::new(&pool);
        let mut memory = CrossBatchMemory::new(64 * 20, 8).unwrap();
        for step in 0..20 {
            let x = Array2::from_shape_fn((64, 8), |(i, j)| ((step * 64 + i * 7 + j * 3) as f32).sin());
            let labels: Vec<u32> = (0..64).map(|row| row % 5).collect();
            memory.push(x.view(), &labels).unwrap();
            if step < first {
                continue;
            }
            let mut dx = Array2::zeros(x.dim());
            let mut input = Input::new(x.view(), &labels);
            input.reference = Some(memory.reference());
            let grads = GradsMut { embeddings: Some(dx.view_mut()), ..GradsMut::default() };
            loss.forward_backward(input, grads, &mut work).unwrap();
        }
        pool.free_bytes()
    };
    assert_eq!(bytes(0), bytes(19));
    assert!(bytes(19) > 0);
}
