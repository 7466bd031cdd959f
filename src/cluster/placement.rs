//! Which worker is asked to take a session: the power of two choices. Pure.
//!
//! Of two workers drawn at random the less loaded one is asked. That spreads sessions almost as well as
//! asking the least loaded of all, but many fronts with the same, slightly old figures do not all run to
//! the same worker (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

use rand::Rng;
use rand::seq::index;

/// What a front knows of one worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Share of the worker's capacity in use, 0 to 1, what was placed since it said so included.
    pub ratio: f64,
    /// It answers, is not draining and has room.
    pub admits: bool,
}

/// The index of the worker to ask, or none when no worker admits.
///
/// After a refusal the caller sets that worker's `admits` to `false` and asks again.
pub fn choose(workers: &[Load], random: &mut impl Rng) -> Option<usize> {
    let admitting: Vec<usize> = (0..workers.len()).filter(|at| workers[*at].admits).collect();
    match admitting.len() {
        0 => None,
        1 => Some(admitting[0]),
        count => {
            // In random order, so that equal loads are no reason to prefer either.
            let drawn = index::sample(random, count, 2);
            let (first, second) = (admitting[drawn.index(0)], admitting[drawn.index(1)]);
            Some(if workers[second].ratio < workers[first].ratio { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn load(ratio: f64) -> Load {
        Load { ratio, admits: true }
    }

    const CLOSED: Load = Load { ratio: 0.0, admits: false };

    #[test]
    fn only_workers_that_admit_are_chosen() {
        let table: &[(&[Load], &[usize])] = &[
            (&[], &[]),
            (&[CLOSED], &[]),
            (&[CLOSED, CLOSED, CLOSED], &[]),
            (&[load(0.9)], &[0]),
            (&[CLOSED, load(0.9), CLOSED], &[1]),
            (&[load(0.5), load(0.2)], &[1]),
            (&[load(0.2), load(0.5), CLOSED], &[0]),
            (&[load(0.5), load(0.5)], &[0, 1]),
            // The most loaded of three always meets one that has less.
            (&[load(0.1), load(0.9), load(0.5)], &[0, 2]),
        ];
        let mut random = StdRng::seed_from_u64(1);
        for (workers, expected) in table {
            let mut chosen: Vec<usize> = (0..200).filter_map(|_| choose(workers, &mut random)).collect();
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(&chosen, expected, "{workers:?}");
        }
    }

    #[test]
    fn after_refusals_every_worker_has_been_asked_once() {
        let mut workers: Vec<Load> = (0..5).map(|n| load(f64::from(n) / 5.0)).collect();
        let mut random = StdRng::seed_from_u64(2);
        let mut asked = Vec::new();
        while let Some(at) = choose(&workers, &mut random) {
            asked.push(at);
            workers[at].admits = false;
        }
        asked.sort_unstable();
        assert_eq!(asked, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn sessions_spread_evenly_although_the_figures_are_old() {
        const WORKERS: usize = 10;
        const CAPACITY: f64 = 100.0;
        let mut sessions = [0u32; WORKERS];
        let mut random = StdRng::seed_from_u64(3);
        for _ in 0..50 {
            // Ten joins are placed by the figures of one poll.
            let seen = sessions.map(|count| load(f64::from(count) / CAPACITY));
            for _ in 0..10 {
                sessions[choose(&seen, &mut random).expect("all admit")] += 1;
            }
        }
        let (least, most) = (sessions.iter().min().unwrap(), sessions.iter().max().unwrap());
        assert!(most - least <= 6, "{sessions:?}");
    }
}
