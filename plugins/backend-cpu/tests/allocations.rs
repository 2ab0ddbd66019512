//! Operations allocate nothing: every value has its place, and scratch memory is set aside before the first step. What is
//! left are the few small lists that a step takes at the plugin's border, however many operations it has.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{IN_STEP, Plugin, Random, Sizes, StepData, weights};
use rocmforge_sdk::DType;
use rocmforge_sdk::program::{
    Activation, Attention, Builder, InputSource, ModelInfo, Op, Program, Rope, RopeScaling, RopeStyle, ValueId,
};

/// The system's memory; counts what is asked for while a step runs, on all threads.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

fn count() {
    if IN_STEP.load(Ordering::SeqCst) {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: every call goes on to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(p, layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract.
        unsafe { System.realloc(p, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const WIDTH: usize = 256;

fn linear(b: &mut Builder, x: ValueId, name: &str, [rows, cols]: [usize; 2]) -> ValueId {
    let weight = b.weight(name, &[rows, cols], DType::Q4_K).unwrap();
    b.push(Op::Linear { x, weight, bias: None }).unwrap()
}

fn norm(b: &mut Builder, x: ValueId, name: &str) -> ValueId {
    let weight = Some(b.weight(name, &[WIDTH], DType::F32).unwrap());
    b.push(Op::RmsNorm { x, weight, eps: 1e-5 }).unwrap()
}

/// 4 heads of 64 over 2 of keys and values.
fn attention(b: &mut Builder, x: ValueId, positions: ValueId, layer: u32) -> ValueId {
    let mut heads = |name: &str, count: usize, turned: bool| {
        let x = linear(b, x, &format!("{layer}.{name}"), [64 * count, WIDTH]);
        let x = b.push(Op::Reshape { x, dims: vec![count, 64] }).unwrap();
        let (style, scaling) = (RopeStyle::Half, RopeScaling::None);
        let rope = Rope {
            x,
            positions,
            style,
            rotary_dim: 64,
            base: 1e4,
            scaling,
            magnitude: 1.0,
            factors: None,
            sections: None,
        };
        if turned { b.push(Op::Rope(rope)).unwrap() } else { x }
    };
    let (q, k, v) = (heads("q", 4, true), heads("k", 2, true), heads("v", 2, false));
    let cache = b.cache(2, 64, 64, None);
    let attention =
        Attention { q, k: Some(k), v: Some(v), cache, scale: 0.125, window: None, softcap: None, sinks: None };
    let x = b.push(Op::Attention(attention)).unwrap();
    let x = b.push(Op::Reshape { x, dims: vec![WIDTH] }).unwrap();
    linear(b, x, &format!("{layer}.o"), [WIDTH, WIDTH])
}

/// A transformer.
fn program(layers: u32) -> Program {
    let info =
        ModelInfo { architecture: "test".into(), vocab_size: 50, hidden_size: WIDTH, layers, context_length: 64 };
    let mut b = Builder::new(info);
    let ids = b.input(InputSource::TokenIds).unwrap();
    let positions = b.input(InputSource::Positions).unwrap();
    let rows = b.input(InputSource::LogitsRows).unwrap();
    let table = b.weight("table", &[50, WIDTH], DType::Q4_K).unwrap();
    let mut x = b.push(Op::Embed { ids, table, scale: 1.0 }).unwrap();
    for layer in 0..layers {
        b.set_layer(Some(layer));
        let y = norm(&mut b, x, &format!("{layer}.norm"));
        let y = attention(&mut b, y, positions, layer);
        x = b.push(Op::Add { a: x, b: y }).unwrap();
        let y = norm(&mut b, x, &format!("{layer}.ffn norm"));
        let gate = linear(&mut b, y, &format!("{layer}.gate"), [512, WIDTH]);
        let up = linear(&mut b, y, &format!("{layer}.up"), [512, WIDTH]);
        let y = b.push(Op::GatedAct { gate, up, kind: Activation::Silu }).unwrap();
        let y = linear(&mut b, y, &format!("{layer}.down"), [WIDTH, 512]);
        x = b.push(Op::Add { a: x, b: y }).unwrap();
    }
    let x = b.push(Op::GatherRows { x, rows }).unwrap();
    let x = norm(&mut b, x, "output norm");
    let logits = linear(&mut b, x, "head", [50, WIDTH]);
    b.output("logits", logits);
    b.finish().unwrap()
}

/// Allocations of each of some steps.
fn allocations(layers: u32, kv: &str) -> [usize; 5] {
    let plans: [&[(usize, usize)]; 5] =
        [&[(0, 30)], &[(0, 100)], &[(0, 1)], &[(0, 1), (1, 9), (2, 1)], &[(0, 1), (1, 1), (2, 1)]];
    let p = program(layers);
    let sizes = Sizes { max_tokens: 128, max_sequences: 64, block_size: 16, blocks: vec![64] };
    // With one thread: several beside other processes keep a list of those that they moved, now and then.
    let options = format!(r#"{{"threads": 1, "kv_type": "{kv}"}}"#);
    let plugin = Plugin::load(&options, &p, &weights(&p, 1), &sizes).unwrap();
    let (mut random, mut lengths) = (Random(5), [0; 4]);
    plans.map(|plan| {
        let step = StepData::new(&p, 16, &mut lengths, plan, &mut random);
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        step.borrow(|step| plugin.run(step).unwrap());
        ALLOCATIONS.load(Ordering::SeqCst) - before
    })
}

#[test]
fn operations_allocate_nothing() {
    for kv in ["f32", "f16", "q8_0"] {
        let few = allocations(1, kv);
        assert!(few.iter().all(|&count| count <= 4), "{kv}: {few:?}");
        assert_eq!(few, allocations(4, kv), "{kv}");
    }
}
