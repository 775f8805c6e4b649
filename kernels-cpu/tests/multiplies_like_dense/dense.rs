//! Products with matrices that are not quantized, and what holds of few rows with any.

use half::{bf16, f16};
use nf4::{Direction, QuantConfig};
use qlora_cpu::dense::{Beta, DenseRef, FEW_ROWS};
use qlora_cpu::{Cpu, Element, Isa, Threads};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    Float, assert_close, assert_close_rounded, exactly, on, quantized, random, reference, widths,
};

fn dense_products<W: Element + Float>(rng: &mut ChaCha8Rng) {
    for shape in [
        [1, 1],
        [3, 5],
        [17, 16],
        [33, 50],
        [130, 257],
        [300, 40],
        [40, 1300],
    ] {
        let (values, weights) = exactly::<W>(&random(rng, shape[0] * shape[1]));
        let gap = [W::narrow(f32::NAN); 3];
        let strided: Vec<W> = values
            .chunks(shape[1])
            .flat_map(|row| row.iter().copied().chain(gap))
            .collect();
        let strided = DenseRef::with_stride(&strided, shape, shape[1] + gap.len());
        let w = DenseRef::new(&values, shape);
        for direction in [Direction::Forward, Direction::Transposed] {
            let (inner, outer) = widths(shape, direction);
            for m in [0, 1, 5, 13, 40] {
                let (x, wide) = exactly::<W>(&random(rng, m * inner));
                let mut expected = reference(&weights, shape, &wide, m, direction);
                for isa in Isa::available() {
                    for threads in [Threads::All, Threads::Calling] {
                        let mut y = vec![f32::NAN; m * outer];
                        Cpu::new(*isa, threads).dense_matmul(
                            w,
                            &x,
                            m,
                            &mut y,
                            direction,
                            Beta::Zero,
                        );
                        let what = format!("{isa:?} {direction:?} m={m} {shape:?} {threads:?}");
                        assert_close(&y, &expected, inner, &what);
                    }
                }
                let mut y = vec![f32::NAN; m * outer];
                let calling = Cpu::calling_thread();
                calling.dense_matmul(strided, &x, m, &mut y, direction, Beta::Zero);
                let what = format!("{direction:?} m={m} {shape:?} strided");
                assert_close(&y, &expected, inner, &what);
                if direction == Direction::Transposed {
                    let columns: Vec<f32> = (0..inner * m)
                        .map(|i| wide[i % m * inner + i / m])
                        .collect();
                    for isa in Isa::available() {
                        let mut y = vec![f32::NAN; m * outer];
                        Cpu::new(*isa, Threads::Calling).dense_transposed_matmul(
                            strided,
                            &columns,
                            m,
                            &mut y,
                            Beta::Zero,
                        );
                        let what = format!("{isa:?} m={m} {shape:?} from columns");
                        assert_close(&y, &expected, inner, &what);
                    }
                }
                // The operand may be wider than the matrix; it is rounded on the way.
                let mut y = vec![2.0f32; m * outer];
                Cpu::default().dense_matmul(w, &wide, m, &mut y, direction, Beta::One);
                expected.iter_mut().for_each(|(sum, _)| *sum += 2.0);
                expected
                    .iter_mut()
                    .for_each(|(_, magnitude)| *magnitude += 2.0);
                assert_close(
                    &y,
                    &expected,
                    inner,
                    &format!("{direction:?} m={m} {shape:?} added"),
                );
            }
        }
    }
}

#[test]
fn dense_matrices_are_multiplied() {
    let rng = &mut ChaCha8Rng::seed_from_u64(6);
    dense_products::<f32>(rng);
    dense_products::<f16>(rng);
    dense_products::<bf16>(rng);
}

fn few_rows_of_dense_products<E: Element + Float>(rng: &mut ChaCha8Rng) {
    for shape in [[1, 1], [3, 5], [17, 16], [33, 50], [300, 257], [900, 96]] {
        let [n, k] = shape;
        let (values, weights) = exactly::<E>(&random(rng, n * k));
        let gap = [E::narrow(f32::NAN); 3];
        let rows = values.chunks(k);
        let strided: Vec<E> = rows
            .flat_map(|row| row.iter().copied().chain(gap))
            .collect();
        let strided = DenseRef::with_stride(&strided, shape, k + gap.len());
        let (x, wide) = exactly::<E>(&random(rng, FEW_ROWS * k));
        let expected = reference(&weights, shape, &wide, FEW_ROWS, Direction::Forward);
        for isa in Isa::available() {
            let product = |x: &[E], w| {
                let m = x.len() / k;
                let mut y = vec![E::narrow(f32::NAN); m * n];
                on(isa).dense_matmul_few_rows(w, x, m, &mut y);
                y.into_iter().map(Float::widen).collect::<Vec<_>>()
            };
            let all = product(&x, DenseRef::new(&values, shape));
            let what = format!("{isa:?} {shape:?}");
            assert_close_rounded(&all, &expected, k, E::DIGITS, &what);
            assert_eq!(all, product(&x, strided), "{what} strided");
            for m in 0..FEW_ROWS {
                let alone = product(&x[m * k..][..k], strided);
                assert_eq!(alone, all[m * n..][..n], "{what} row {m} alone");
                let some = product(&x[..m * k], strided);
                assert_eq!(some, all[..m * n], "{what} {m} rows");
            }
        }
    }
}

#[test]
fn a_row_of_few_has_the_bits_that_it_has_alone() {
    let rng = &mut ChaCha8Rng::seed_from_u64(8);
    few_rows_of_dense_products::<f32>(rng);
    few_rows_of_dense_products::<f16>(rng);
    few_rows_of_dense_products::<bf16>(rng);
    for shape in [[70, 576], [40, 136], [33, 24]] {
        let [n, k] = shape;
        let w = quantized(rng, shape, QuantConfig::default());
        let x = random(rng, FEW_ROWS * k);
        for isa in Isa::available() {
            let product =
                |x: &[f32]| on(isa).matmul_vec(w.as_ref(), x, x.len() / k, Direction::Forward);
            let all = product(&x);
            for (x, row) in x.chunks(k).zip(all.chunks(n)) {
                assert_eq!(product(x), row, "{isa:?} {shape:?}");
            }
        }
    }
}
