//! Which track gets which detection: the assignment with the greatest sum of similarities.
//!
//! Shortest augmenting paths over dual potentials (Jonker and Volgenant, 1987, without their
//! initialisation): at most `n² · m` steps for the smaller side `n`. It knows nothing of boxes.

/// Pairs of (row, column), each used at most once, whose sum of similarities is the greatest.
///
/// Pairs below `least`, or not finite, are never made, so rows and columns may stay alone.
pub(super) fn assign(
    rows: usize,
    columns: usize,
    least: f32,
    similarity: &dyn Fn(usize, usize) -> f32,
) -> Vec<(usize, usize)> {
    if rows == 0 || columns == 0 {
        return Vec::new();
    }
    if rows > columns {
        let pairs = assign(columns, rows, least, &|column, row| similarity(row, column));
        return pairs.into_iter().map(|(column, row)| (row, column)).collect();
    }
    // A refused pair costs nothing, as two that stay alone do; such pairs are dropped at the end.
    let mut costs = vec![0.0f32; rows * columns];
    for (row, costs) in costs.chunks_exact_mut(columns).enumerate() {
        for (column, cost) in costs.iter_mut().enumerate() {
            let similarity = similarity(row, column);
            if similarity.is_finite() && similarity >= least && similarity > 0.0 {
                *cost = -similarity;
            }
        }
    }
    let row_of = cheapest(rows, columns, &costs);
    let pairs = row_of.iter().enumerate().filter_map(|(column, &row)| Some((row?, column)));
    pairs.filter(|&(row, column)| costs[row * columns + column] < 0.0).collect()
}

/// The row of each column in the cheapest assignment of every row; needs `rows <= columns`.
fn cheapest(rows: usize, columns: usize, costs: &[f32]) -> Vec<Option<usize>> {
    // With the least cost of each row as its potential, no reduced cost is negative to begin with.
    let least = |row: usize| (0..columns).map(|column| costs[row * columns + column]).fold(0.0, f32::min);
    let mut row_potential: Vec<f32> = (0..rows).map(least).collect();
    let mut column_potential = vec![0.0f32; columns];
    let mut row_of: Vec<Option<usize>> = vec![None; columns];
    let mut distance = vec![f32::INFINITY; columns];
    let mut previous: Vec<Option<usize>> = vec![None; columns];
    let mut done = vec![false; columns];

    for start in 0..rows {
        distance.fill(f32::INFINITY);
        done.fill(false);
        let mut reached: Option<usize> = None;
        let mut row = start;
        // Dijkstra over the columns, by reduced cost, from `start` to the nearest free column.
        let free = loop {
            let base = reached.map_or(0.0, |column| distance[column]);
            let mut nearest: Option<usize> = None;
            for column in (0..columns).filter(|&column| !done[column]) {
                let reduced = costs[row * columns + column] - row_potential[row] - column_potential[column];
                // Rounding may leave a reduced cost just below zero, which Dijkstra must not see.
                let through = base + reduced.max(0.0);
                if through < distance[column] {
                    distance[column] = through;
                    previous[column] = reached;
                }
                if nearest.is_none_or(|nearest| distance[column] < distance[nearest]) {
                    nearest = Some(column);
                }
            }
            let nearest = nearest.expect("a free column is left while rows are no more than columns");
            done[nearest] = true;
            reached = Some(nearest);
            match row_of[nearest] {
                Some(next) => row = next,
                None => break nearest,
            }
        };

        let length = distance[free];
        row_potential[start] += length;
        for column in (0..columns).filter(|&column| done[column] && column != free) {
            let slack = length - distance[column];
            column_potential[column] -= slack;
            if let Some(row) = row_of[column] {
                row_potential[row] += slack;
            }
        }
        let mut column = free;
        while let Some(from) = previous[column] {
            row_of[column] = row_of[from];
            column = from;
        }
        row_of[column] = Some(start);
    }
    row_of
}

#[cfg(test)]
mod tests {
    use pathfinding::matrix::Matrix;
    use pathfinding::prelude::kuhn_munkres;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn assign_table(table: &[&[f32]], least: f32) -> Vec<(usize, usize)> {
        let columns = table.first().map_or(0, |row| row.len());
        let mut pairs = assign(table.len(), columns, least, &|row, column| table[row][column]);
        pairs.sort_unstable();
        pairs
    }

    #[test]
    fn makes_the_best_pairs_and_leaves_the_rest_alone() {
        // Greedy choice would take 0.9 and leave 0.1.
        assert_eq!(assign_table(&[&[0.9, 0.8], &[0.8, 0.1]], 0.05), [(0, 1), (1, 0)]);
        assert_eq!(assign_table(&[&[0.1, 0.9]], 0.2), [(0, 1)]);
        assert_eq!(assign_table(&[&[0.1, 0.19]], 0.2), []);
        assert_eq!(assign_table(&[&[0.3], &[0.5], &[0.4]], 0.2), [(1, 0)]);
        assert_eq!(assign_table(&[&[f32::NAN, 0.5], &[f32::INFINITY, 0.4]], 0.2), [(0, 1)]);
        assert_eq!(assign_table(&[&[-1.0, 0.0]], -2.0), []);
        assert_eq!(assign_table(&[], 0.2), []);
        assert_eq!(assign_table(&[&[], &[]], 0.2), []);
    }

    #[test]
    fn agrees_with_another_implementation() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let (rows, columns) = (random.random_range(1..12), random.random_range(1..12));
            let density = random.random_range(0.1..1.0);
            let weights = Matrix::from_fn(rows, columns, |_| {
                if random.random_bool(density) { random.random_range(200..1000i64) } else { 0 }
            });
            let similarity = |row: usize, column: usize| weights[(row, column)] as f32 / 1000.0;

            let pairs = assign(rows, columns, 0.2, &similarity);
            let mut used = (vec![false; rows], vec![false; columns]);
            let mut total = 0;
            for (row, column) in pairs {
                assert!(!std::mem::replace(&mut used.0[row], true), "row {row} twice, seed {seed}");
                assert!(!std::mem::replace(&mut used.1[column], true), "column {column} twice, seed {seed}");
                assert!(weights[(row, column)] >= 200, "refused pair made, seed {seed}");
                total += weights[(row, column)];
            }
            let flat = if rows <= columns { weights } else { weights.transposed() };
            assert_eq!(total, kuhn_munkres(&flat).0, "seed {seed}");
        }
    }
}
