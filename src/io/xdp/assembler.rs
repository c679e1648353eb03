//! Writes BPF programs as Rust calls, one per instruction, with labels instead of distances.
//!
//! Only what our programs use, in the encoding of `Documentation/bpf/standardization/instruction-set.rst`
//! (RFC 9669): one 64-bit word per instruction, two for a map.

use std::os::fd::{AsFd, AsRawFd};

/// One instruction word: opcode, registers, distance, immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    opcode: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    distance: i16,
    immediate: i32,
}

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(u8);

/// What a call or the program returns.
pub const R0: Register = Register(0);
/// The first argument; at the start of a program its context.
pub const R1: Register = Register(1);
pub const R2: Register = Register(2);
pub const R3: Register = Register(3);
pub const R4: Register = Register(4);
pub const R5: Register = Register(5);
/// From here on registers survive calls.
pub const R6: Register = Register(6);
pub const R7: Register = Register(7);
pub const R8: Register = Register(8);
pub const R9: Register = Register(9);
/// The end of the 512 bytes of stack.
pub const R10: Register = Register(10);

/// Verdicts of an XDP program (`enum xdp_action`).
pub const XDP_DROP: i32 = 1;
pub const XDP_PASS: i32 = 2;

/// Places of the fields in the context of an XDP program (`struct xdp_md`).
pub const XDP_DATA: i16 = 0;
pub const XDP_DATA_END: i16 = 4;
pub const XDP_QUEUE: i16 = 16;

/// How much a load or a store moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// 4 bytes.
    Word = 0x00,
    /// 2 bytes.
    Half = 0x08,
    Byte = 0x10,
    /// 8 bytes.
    Double = 0x18,
}

/// Conditions; comparisons are unsigned and of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Jump {
    Equal = 0x10,
    Greater = 0x20,
    /// Any of these bits is set.
    AnyBit = 0x40,
    NotEqual = 0x50,
    Less = 0xa0,
}

/// Functions of the kernel (`enum bpf_func_id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Helper {
    /// (map, address of key) → address of value, or 0.
    MapLookup = 1,
    /// (map, key, verdict if there is no such key) → verdict.
    RedirectMap = 51,
}

/// Somewhere to jump to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A program in the making.
#[derive(Debug, Default)]
pub struct Assembler {
    code: Vec<Instruction>,
    /// Where each label is, once it is placed.
    labels: Vec<Option<usize>>,
    /// Jumps and the labels they mean.
    jumps: Vec<(usize, Label)>,
}

/// Classes of instructions.
const LD: u8 = 0x00;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const JMP: u8 = 0x05;
const ALU64: u8 = 0x07;

/// Modes of loads and stores.
const IMMEDIATE: u8 = 0x00;
const MEMORY: u8 = 0x60;
const ATOMIC: u8 = 0xc0;

/// The second operand is a register.
const REGISTER: u8 = 0x08;

/// `BPF_PSEUDO_MAP_FD`: the immediate is a descriptor of ours, for the kernel to replace by the map.
const MAP_FD: u8 = 1;

impl Assembler {
    /// `to = value`
    pub fn set(&mut self, to: Register, value: i32) {
        self.push(ALU64 | 0xb0, to, R0, 0, value);
    }

    /// `to = from`
    pub fn copy(&mut self, to: Register, from: Register) {
        self.push(ALU64 | REGISTER | 0xb0, to, from, 0, 0);
    }

    /// `to += value`
    pub fn add_immediate(&mut self, to: Register, value: i32) {
        self.push(ALU64, to, R0, 0, value);
    }

    /// `to -= from`
    pub fn subtract(&mut self, to: Register, from: Register) {
        self.push(ALU64 | REGISTER | 0x10, to, from, 0, 0);
    }

    /// `to = *(base + at)`
    pub fn load(&mut self, size: Size, to: Register, base: Register, at: i16) {
        self.push(LDX | MEMORY | size as u8, to, base, at, 0);
    }

    /// `*(base + at) = from`
    pub fn store(&mut self, size: Size, base: Register, at: i16, from: Register) {
        self.push(STX | MEMORY | size as u8, base, from, at, 0);
    }

    /// `*(base + at) = value`
    pub fn store_immediate(&mut self, size: Size, base: Register, at: i16, value: i32) {
        self.push(ST | MEMORY | size as u8, base, R0, at, value);
    }

    /// `*(base + at) += from`, atomically; words and double words.
    pub fn add_to_memory(&mut self, size: Size, base: Register, at: i16, from: Register) {
        self.push(STX | ATOMIC | size as u8, base, from, at, 0);
    }

    /// `to = map`, which stays open until the program is loaded.
    pub fn load_map(&mut self, to: Register, map: &impl AsFd) {
        let descriptor = map.as_fd().as_raw_fd();
        self.push(LD | IMMEDIATE | Size::Double as u8, to, Register(MAP_FD), 0, descriptor);
        self.push(0, R0, R0, 0, 0);
    }

    pub fn call(&mut self, helper: Helper) {
        self.push(JMP | 0x80, R0, R0, 0, helper as i32);
    }

    /// Ends the program with the verdict in [`R0`].
    pub fn exit(&mut self) {
        self.push(JMP | 0x90, R0, R0, 0, 0);
    }

    /// A label, to be placed once.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The next instruction is what `label` means.
    pub fn place(&mut self, label: Label) {
        let here = self.code.len();
        let unplaced = self.labels.get_mut(label.0).is_some_and(|place| place.replace(here).is_none());
        assert!(unplaced, "a label is of this program, and in one place");
    }

    pub fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JMP, R0, R0, 0, 0);
    }

    /// Jumps if `left jump right`.
    pub fn jump_if(&mut self, jump: Jump, left: Register, right: Register, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JMP | REGISTER | jump as u8, left, right, 0, 0);
    }

    /// Jumps if `left jump value`.
    pub fn jump_if_immediate(&mut self, jump: Jump, left: Register, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JMP | jump as u8, left, R0, 0, value);
    }

    /// The program, its labels turned into distances.
    pub fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let target = self.labels.get(label.0).copied().flatten().expect("every label is placed");
            // Distances count from the instruction behind the jump.
            let distance = target as i64 - at as i64 - 1;
            let jump = self.code.get_mut(at).expect("jumps are noted where they are written");
            jump.distance = i16::try_from(distance).expect("our programs are short");
        }
        self.code
    }

    fn push(&mut self, opcode: u8, to: Register, from: Register, distance: i16, immediate: i32) {
        self.code.push(Instruction { opcode, registers: to.0 | from.0 << 4, distance, immediate });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(code: Assembler) -> Vec<(u8, u8, i16, i32)> {
        let tuple = |i: Instruction| (i.opcode, i.registers, i.distance, i.immediate);
        code.finish().into_iter().map(tuple).collect()
    }

    /// Against what clang makes of the same C: `if (ctx->data + 14 > ctx->data_end) return XDP_PASS; …`
    #[test]
    fn instructions_are_encoded_as_a_compiler_does() {
        let mut code = Assembler::default();
        let pass = code.label();
        code.load(Size::Word, R2, R1, XDP_DATA_END);
        code.load(Size::Word, R1, R1, XDP_DATA);
        code.copy(R3, R1);
        code.add_immediate(R3, 14);
        code.jump_if(Jump::Greater, R3, R2, pass);
        code.load(Size::Half, R1, R1, 12);
        code.jump_if_immediate(Jump::NotEqual, R1, 8, pass);
        code.set(R0, XDP_DROP);
        code.exit();
        code.place(pass);
        code.set(R0, XDP_PASS);
        code.exit();
        assert_eq!(
            words(code),
            [
                (0x61, 0x12, 4, 0),
                (0x61, 0x11, 0, 0),
                (0xbf, 0x13, 0, 0),
                (0x07, 0x03, 0, 14),
                (0x2d, 0x23, 4, 0),
                (0x69, 0x11, 12, 0),
                (0x55, 0x01, 2, 8),
                (0xb7, 0x00, 0, 1),
                (0x95, 0x00, 0, 0),
                (0xb7, 0x00, 0, 2),
                (0x95, 0x00, 0, 0),
            ]
        );
    }

    #[test]
    fn a_label_before_its_jump_is_a_negative_distance() {
        let mut code = Assembler::default();
        let again = code.label();
        code.place(again);
        code.set(R0, 0);
        code.jump(again);
        assert_eq!(words(code).last(), Some(&(0x05, 0, -2, 0)));
    }
}
