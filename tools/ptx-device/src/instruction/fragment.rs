//! Fragments of matrices in the layouts that the ISA gives (PTX ISA, "Matrix Fragments for mma.m16n8k4/8/16").

use crate::instruction::rounding::{Rounding, to_f16};
use crate::machine::{Lanes, WARP, Word};
use crate::syntax::Type;
use half::{bf16, f16};

/// Which matrix of `D = A · B + C` a fragment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// The left factor, 16 rows.
    A,
    /// The right factor, 8 columns.
    B,
    /// The sum.
    C,
}

/// Returns the row and column of an element: the `element`th of a lane's `register`th, where a register holds `packed` elements.
pub fn place(
    operand: Operand,
    packed: usize,
    register: usize,
    element: usize,
    lane: usize,
) -> (usize, usize) {
    let (group, member) = (lane / 4, lane % 4);
    // Four lanes hold a row's, or a column's, elements one behind the other.
    let span = 4 * packed;
    match operand {
        Operand::A => (
            group + 8 * (register % 2),
            packed * member + element + span * (register / 2),
        ),
        Operand::B => (packed * member + element + span * register, group),
        Operand::C => {
            let at = register * packed + element;
            (group + 8 * (at / 2), 2 * member + at % 2)
        }
    }
}

/// Returns how many elements of a type a register of 32 bits holds.
pub fn packed(ty: Type) -> usize {
    if matches!(ty, Type::F16 | Type::BF16) {
        2
    } else {
        1
    }
}

/// Returns an element of a register as the matrix unit reads it.
pub fn element(ty: Type, bits: u64, element: usize) -> f32 {
    let half = bits >> (16 * element);
    match ty {
        Type::F16 => f16::of(half).to_f32(),
        Type::BF16 => bf16::of(half).to_f32(),
        // The lowest bits are not looked at.
        Type::TF32 => f32::from_bits(bits as u32 & !0x1fff),
        _ => f32::of(bits),
    }
}

/// Returns the bits of an element in its place in a register.
pub fn bits(ty: Type, value: f32, element: usize) -> u64 {
    match ty {
        Type::F16 => to_f16(value.into(), Rounding::Nearest).bits() << (16 * element),
        _ => value.bits(),
    }
}

/// A matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// Returns a matrix of zeros.
    pub fn new(rows: usize, columns: usize) -> Self {
        Self {
            columns,
            values: vec![0.0; rows * columns],
        }
    }

    /// Returns the element at a row and a column.
    pub fn at(&mut self, (row, column): (usize, usize)) -> &mut f32 {
        &mut self.values[row * self.columns + column]
    }

    /// Puts a fragment's registers together.
    pub fn gathered(
        rows: usize,
        columns: usize,
        operand: Operand,
        ty: Type,
        registers: &[Lanes],
    ) -> Self {
        let mut matrix = Self::new(rows, columns);
        let packed = packed(ty);
        for (register, lanes) in registers.iter().enumerate() {
            for (lane, bits) in lanes.iter().enumerate() {
                for at in 0..packed {
                    *matrix.at(place(operand, packed, register, at, lane)) = element(ty, *bits, at);
                }
            }
        }
        matrix
    }

    /// Adds the product of two others.
    pub fn add_product(&mut self, a: &mut Self, b: &mut Self) {
        let inner = a.columns;
        for row in 0..self.values.len() / self.columns {
            for column in 0..self.columns {
                let mut sum = *self.at((row, column));
                for k in 0..inner {
                    sum += *a.at((row, k)) * *b.at((k, column));
                }
                *self.at((row, column)) = sum;
            }
        }
    }

    /// Cuts a sum up into the registers of a fragment.
    pub fn scattered(&mut self, ty: Type, registers: usize) -> Vec<Lanes> {
        let packed = packed(ty);
        let mut found = vec![[0; WARP]; registers];
        for (register, lanes) in found.iter_mut().enumerate() {
            for (lane, word) in lanes.iter_mut().enumerate() {
                for at in 0..packed {
                    let value = *self.at(place(Operand::C, packed, register, at, lane));
                    *word |= bits(ty, value, at);
                }
            }
        }
        found
    }
}
