//! The order of a convolution's weights: TensorFlow's HWIO to ONNX's OIHW.

/// Reorders `[h, w, i, o]` to `[o, i, h, w]`.
pub fn hwio_to_oihw(values: &[f32], [h, w, i, o]: [usize; 4]) -> Vec<f32> {
    let area = h * w;
    let mut reordered = Vec::with_capacity(values.len());
    for output in 0..o {
        for input in 0..i {
            reordered.extend((0..area).map(|cell| values[(cell * i + input) * o + output]));
        }
    }
    reordered
}

/// Reorders a depthwise `[h, w, channel, multiplier]` to `[channel * multiplier, 1, h, w]`.
pub fn depthwise_to_oihw(values: &[f32], [h, w, channels, multiplier]: [usize; 4]) -> Vec<f32> {
    // One input a group: the same walk as over one input and all outputs.
    hwio_to_oihw(values, [h, w, 1, channels * multiplier])
}

/// Reverses the input channels of `[h, w, i, o]`, so that a kernel made for BGR takes RGB.
pub fn reverse_input_channels(values: &mut [f32], [_, _, i, o]: [usize; 4]) {
    for cell in values.chunks_exact_mut(i * o) {
        for input in 0..i / 2 {
            let (front, back) = cell.split_at_mut((i - 1 - input) * o);
            front[input * o..][..o].swap_with_slice(&mut back[..o]);
        }
    }
}

/// Multiplies each output channel of `[h, w, i, o]` (or of a depthwise `[h, w, i, m]`, whose outputs
/// are `i * m`) by its factor. Both layouts have their outputs innermost.
pub fn scale_outputs(values: &mut [f32], factors: &[f32]) {
    for row in values.chunks_exact_mut(factors.len()) {
        for (value, factor) in row.iter_mut().zip(factors) {
            *value *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that tell where they stood: `[h][w][i][o]` as decimal digits.
    fn marked([h, w, i, o]: [usize; 4]) -> Vec<f32> {
        let mut values = Vec::new();
        for (y, x, input, output) in
            (0..h * w * i * o).map(|n| (n / (w * i * o), n / (i * o) % w, n / o % i, n % o))
        {
            values.push((1000 * y + 100 * x + 10 * input + output) as f32);
        }
        values
    }

    #[test]
    fn outputs_come_first_then_inputs() {
        let values = hwio_to_oihw(&marked([2, 2, 2, 3]), [2, 2, 2, 3]);
        assert_eq!(values[..8], [0.0, 100.0, 1000.0, 1100.0, 10.0, 110.0, 1010.0, 1110.0]);
        assert_eq!(values[8..12], [1.0, 101.0, 1001.0, 1101.0]);
        assert_eq!(values.len(), 24);
    }

    #[test]
    fn a_depthwise_kernel_has_one_plane_a_channel() {
        let values = depthwise_to_oihw(&marked([2, 2, 3, 1]), [2, 2, 3, 1]);
        assert_eq!(values[..4], [0.0, 100.0, 1000.0, 1100.0]);
        assert_eq!(values[4..8], [10.0, 110.0, 1010.0, 1110.0]);
    }

    #[test]
    fn a_depthwise_multiplier_stays_beside_its_channel() {
        let values = depthwise_to_oihw(&marked([1, 2, 2, 2]), [1, 2, 2, 2]);
        assert_eq!(values, [0.0, 100.0, 1.0, 101.0, 10.0, 110.0, 11.0, 111.0]);
    }

    #[test]
    fn reversing_swaps_red_and_blue_and_keeps_green() {
        let mut values = marked([1, 1, 3, 2]);
        reverse_input_channels(&mut values, [1, 1, 3, 2]);
        assert_eq!(values, [20.0, 21.0, 10.0, 11.0, 0.0, 1.0]);
    }

    #[test]
    fn scaling_goes_by_output() {
        let mut values = vec![1.0; 6];
        scale_outputs(&mut values, &[2.0, 3.0, 4.0]);
        assert_eq!(values, [2.0, 3.0, 4.0, 2.0, 3.0, 4.0]);
    }
}
