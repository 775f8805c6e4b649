//! What is not understood is refused by name.

use crate::support::module;
use ptx_device::machine::Program;
use ptx_device::syntax::Module;
use std::collections::HashMap;

fn refusal(body: &str) -> String {
    let module = Module::parse(&module(body)).expect("the text should be PTX");
    match Program::new(&module.entries["kernel"], &HashMap::new()) {
        Ok(_) => panic!("`{body}` should be refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn instructions_that_are_not_here() {
    for (body, word) in [
        ("frobnicate.u32 %r0, %r1;", "`frobnicate`"),
        ("add.frob.u32 %r0, %r1, %r2;", "`.frob`"),
        ("add.u32 %r0, %r1, %r2, %r3;", "nothing reads"),
        ("add.u32 %r0, %r1;", "missing"),
        ("add.u32 5, %r1, %r2;", "no register"),
        (
            "cvt.rn.satfinite.e4m3x2.f32 %rs0, %f0, %f1;",
            "satfinite.e4m3x2`",
        ),
        (
            "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d0}, {%d1}, {%d2}, {%d3};",
            "m16n8",
        ),
        ("bra nowhere;", "`nowhere`"),
        ("bar.sync 1;", "number 0"),
        ("call helper;", "`call`"),
        ("mov.u32 %r0, stranger;", "`stranger`"),
        ("div.rz.f32 %f0, %f1, %f2;", "nearest"),
    ] {
        let error = refusal(body);
        assert!(error.contains(word), "{body}: {error}");
        assert!(error.starts_with("kernel kernel, line "), "{error}");
    }
}

#[test]
fn text_that_is_no_ptx() {
    for (text, word) in [
        (".entry kernel() { mov.u32 %r0", "the end"),
        ("/* no end", "comment"),
        ("nonsense", "begins no declaration"),
        (".entry kernel() { @%p0 ret; }", "`%p0` is no register"),
        (
            ".global .align 4 .b8 table[99999999999999999999];",
            "number",
        ),
    ] {
        let error = Module::parse(text).map(|_| ()).expect_err(text).to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
}

/// Variables and their first bytes, kernels among functions, sections that say nothing.
#[test]
fn modules_are_read() {
    let text = "
        .version 8.7 // a comment
        .target sm_90
        .extern .shared .align 16 .b8 dynamic[];
        .global .align 4 .u32 table[4] = {1, 0x2, -1};
        .func (.param .b32 result) helper(.param .b32 value) { ret; }
        .visible .entry first(.param .u32 a, .param .align 8 .b8 b[24], .param .u64 .ptr .global .align 16 c)
        .maxntid 128, 1, 1
        { .reg .pred %p<2>; { .reg .b32 %r<4>; mov.u32 %r3, 0; } ret; }
        .section .debug_str { .b8 1, 2 }";
    let module = Module::parse(text).expect("it should be read");
    let entry = &module.entries["first"];
    assert_eq!((entry.registers.len(), entry.statements.len()), (6, 2));
    let sizes: Vec<_> = entry
        .parameters
        .iter()
        .map(|it| (it.bytes, it.align))
        .collect();
    assert_eq!(sizes, [(4, 4), (24, 8), (8, 8)]);
    let table = module
        .variables
        .iter()
        .find(|it| it.name == "table")
        .expect("it is there");
    assert_eq!(
        (table.bytes, table.initial.as_slice()),
        (16, [1, 0, 0, 0, 2, 0, 0, 0, 255, 255, 255, 255].as_slice())
    );
}
