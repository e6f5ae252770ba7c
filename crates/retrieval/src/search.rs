//! The search for nearest neighbours: groups of queries, each of which sees the gallery pass by once.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::best::Best;
use crate::frame::{Frame, Metric};
use crate::keys::unkey;
use crate::knn::{Exclude, Hit, Neighbours};
use crate::panels::{Gallery, QUERY_BLOCK, Queries, Segment};
use crate::product::{PANEL, scan};
use crate::progress::Progress;
use crate::rows::Rows;
use crate::{Error, Result};

/// Bytes of the reservoirs of one group of queries.
const RESERVOIR_BYTES: usize = 48 << 20;
/// With fewer blocks of queries than this the gallery is shared out as well, so that more threads have work.
const FEW_BLOCKS: usize = 16;
/// Panels that one task takes at most of a gallery that is shared out, and tasks that a segment gives at least.
const SHARE: (usize, usize) = (128, 4);
/// Bytes of the reservoirs of one such task, where they hold those of [`LEAST`] queries.
const SHARE_BYTES: usize = 1 << 20;
/// Queries that such a task has at a time at least.
const LEAST: usize = 6;

/// One search with checked queries.
pub(crate) fn neighbours(
    frame: &Frame,
    gallery: &Gallery<'_>,
    queries: &dyn Rows,
    k: usize,
    exclude: Exclude<'_>,
    progress: &dyn Progress,
) -> Result<Neighbours> {
    let (count, _) = queries.shape();
    check(frame.len, count, exclude)?;
    let width = k.min(frame.len);
    progress.begin(if width == 0 { 0 } else { pairs(count, frame.len) });
    let mut found = Neighbours { width, hits: hits(count, width, k)?, counts: vec![0; count] };
    if width == 0 {
        return Ok(found);
    }
    let segments = gallery.segments(frame);
    // A gallery of one segment is laid out once.
    let mut only: Option<Segment<'_>> = None;
    let group = group_size(frame, width);
    let results = found.hits.chunks_mut(group * width).zip(found.counts.chunks_mut(group));
    for (first, (hits, counts)) in (0..count).step_by(group).zip(results) {
        let rows: Vec<u32> = (first as u32..).take(counts.len()).collect();
        let vectors = Queries::new(frame, queries, &rows)?;
        let own = rows.iter().map(|&row| match exclude {
            Exclude::None => u32::MAX,
            Exclude::SameRow => row,
            Exclude::SelfById(ids) => ids.get(row as usize).copied().unwrap_or(u32::MAX),
        });
        let mut group = Group {
            own: own.collect(),
            best: rows.iter().map(|_| Best::new(width)).collect(),
            bounds: vec![f32::NEG_INFINITY; rows.len()],
            vectors,
        };
        if let [items] = segments.as_slice() {
            let segment = match only.take() {
                Some(segment) => segment,
                None => gallery.segment(frame, items.clone())?,
            };
            group.pass(frame, &segment, width, progress);
            only = Some(segment);
        } else {
            for items in &segments {
                group.pass(frame, &gallery.segment(frame, items.clone())?, width, progress);
            }
        }
        group.finish(frame, gallery, width, hits, counts)?;
    }
    Ok(found)
}

/// How many pairs there are.
pub(crate) fn pairs(queries: usize, items: usize) -> u64 {
    (queries as u64).saturating_mul(items as u64)
}

/// Queries whose reservoirs and vectors fit: whole blocks if possible.
fn group_size(frame: &Frame, width: usize) -> usize {
    let fitting = RESERVOIR_BYTES / (8 * Best::capacity(width));
    let blocks = fitting / QUERY_BLOCK * QUERY_BLOCK;
    (if blocks > 0 { blocks } else { fitting.max(1) }).min(Queries::at_once(frame.dim))
}

/// Room for the result; an error where there is none, instead of the end of the process.
fn hits(queries: usize, width: usize, k: usize) -> Result<Vec<Hit>> {
    let mut hits = Vec::new();
    let room = queries.checked_mul(width).filter(|&count| hits.try_reserve_exact(count).is_ok());
    let Some(count) = room else {
        let remedy =
            "so many neighbours of so many queries fit no memory; ask for fewer, or for queries in parts";
        return Err(Error::Parameter { name: "k", value: format!("{k} for {queries} queries"), remedy });
    };
    hits.resize(count, Hit::default());
    Ok(hits)
}

fn check(items: usize, queries: usize, exclude: Exclude<'_>) -> Result<()> {
    let (what, expected, got) = match exclude {
        Exclude::SameRow if queries != items => {
            ("queries", format!("{items} rows, as the gallery: each query is one of its rows"), queries)
        }
        Exclude::SelfById(ids) if ids.len() != queries => {
            ("Exclude::SelfById", format!("{queries} entries, one for each query"), ids.len())
        }
        Exclude::SelfById(ids) => {
            let beyond = |&(_, &id): &(usize, &u32)| id != u32::MAX && id as usize >= items;
            let Some((query, id)) = ids.iter().enumerate().find(beyond) else { return Ok(()) };
            return Err(Error::Parameter {
                name: "Exclude::SelfById",
                value: format!("{id} for query {query}, of {items} gallery rows"),
                remedy: "give the gallery row that is the same item, or u32::MAX where there is none",
            });
        }
        _ => return Ok(()),
    };
    Err(Error::Shape { what, expected, got: vec![got] })
}

/// Queries that see the gallery pass by together, and what each has found.
struct Group {
    vectors: Queries,
    own: Vec<u32>,
    best: Vec<Best>,
    bounds: Vec<f32>,
}

impl Group {
    fn pass(&mut self, frame: &Frame, segment: &Segment<'_>, width: usize, progress: &dyn Progress) {
        if self.own.len() < FEW_BLOCKS * QUERY_BLOCK {
            self.pass_few(frame, segment, width, progress);
            return;
        }
        let dim = frame.dim;
        let blocks = self.vectors.vectors.par_chunks(QUERY_BLOCK * dim).zip(self.own.par_chunks(QUERY_BLOCK));
        let found = self.best.par_chunks_mut(QUERY_BLOCK).zip(self.bounds.par_chunks_mut(QUERY_BLOCK));
        blocks.zip(found).for_each(|((vectors, own), (best, bounds))| {
            offer(frame, vectors, own, &segment.panels, segment.items.clone(), best, bounds);
            progress.advance(pairs(own.len(), segment.items.len()));
        });
    }

    /// Tasks have their own parts of the gallery. What is best does not depend on the order in which they end.
    fn pass_few(&mut self, frame: &Frame, segment: &Segment<'_>, width: usize, progress: &dyn Progress) {
        let dim = frame.dim;
        let Self { vectors, own, best, bounds } = self;
        let (bounds_before, all) = (bounds.clone(), Mutex::new((best, bounds)));
        let (most, tasks) = SHARE;
        let share = segment.items.len().div_ceil(PANEL).div_ceil(tasks).clamp(1, most);
        let reservoir = size_of::<u64>() * Best::capacity(width.min(share * PANEL));
        let block = (SHARE_BYTES / reservoir).clamp(LEAST, QUERY_BLOCK);
        segment.panels.par_chunks(share * dim * PANEL).enumerate().for_each(|(at, panels)| {
            let first = segment.items.start + at * share * PANEL;
            let items = first..segment.items.end.min(first + share * PANEL);
            let blocks = vectors.vectors.chunks(block * dim).zip(own.chunks(block));
            for (start, (vectors, own)) in (0..).step_by(block).zip(blocks) {
                let mut bounds = bounds_before[start..start + own.len()].to_vec();
                let mut best: Vec<Best> = own.iter().map(|_| Best::new(width.min(items.len()))).collect();
                offer(frame, vectors, own, panels, items.clone(), &mut best, &mut bounds);
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                let (all_best, all_bounds) = &mut *all;
                let all = all_best[start..].iter_mut().zip(&mut all_bounds[start..]);
                for ((all, bound), best) in all.zip(&best) {
                    all.merge(best, bound);
                }
                progress.advance(pairs(own.len(), items.len()));
            }
        });
    }

    fn finish(
        &mut self,
        frame: &Frame,
        gallery: &Gallery<'_>,
        width: usize,
        hits: &mut [Hit],
        counts: &mut [usize],
    ) -> Result<()> {
        let vectors = self.vectors.vectors.par_chunks_exact(frame.dim).zip(&self.vectors.factors);
        let results = hits.par_chunks_exact_mut(width).zip(counts);
        self.best.par_iter_mut().zip(results).zip(vectors).try_for_each_init(
            || (vec![0.0f32; frame.dim], vec![0.0f32; frame.dim]),
            |(row, mapped), ((best, (hits, count)), (query, &factor))| {
                let found = best.finish();
                *count = found.len();
                for (hit, &key) in hits.iter_mut().zip(found) {
                    let (score, index) = unkey(key);
                    if frame.metric == Metric::L2 {
                        gallery.mapped(frame, index as usize, row, mapped)?;
                    }
                    let score = frame.shown(query, factor, score, mapped);
                    *hit = Hit { index, score };
                }
                if frame.metric == Metric::L2 {
                    hits[..found.len()]
                        .sort_by(|a, b| a.score.total_cmp(&b.score).then(a.index.cmp(&b.index)));
                }
                Ok(())
            },
        )
    }
}

/// Offers the items of some panels to queries.
fn offer(
    frame: &Frame,
    vectors: &[f32],
    own: &[u32],
    panels: &[f32],
    items: std::ops::Range<usize>,
    best: &mut [Best],
    bounds: &mut [f32],
) {
    scan(
        frame,
        vectors,
        panels,
        bounds,
        #[inline(always)]
        |query, panel, scores, bound| {
            let first = items.start + panel * PANEL;
            best[query].offer(scores, items.end - first, first as u32, own[query], bound);
        },
    );
}
