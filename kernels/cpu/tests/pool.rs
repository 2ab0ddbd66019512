//! The thread pool: every item once, panics contained, no matter how loops are nested.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use rocmforge_kernels_cpu::{KernelError, Pool};

fn check(threads: usize, items: usize, grain: usize) {
    let pool = Pool::new(threads).unwrap();
    for _ in 0..20 {
        let visits: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
        pool.parallel_for(items, grain, |thread, range| {
            assert!(thread < threads.max(1));
            for i in range {
                visits[i].fetch_add(1, Ordering::Relaxed);
            }
        })
        .unwrap();
        assert!(visits.iter().all(|v| v.load(Ordering::Relaxed) == 1), "{threads} threads, {items} by {grain}");
    }
}

#[test]
fn pinned_threads_share_out_a_loop() {
    let pool = Pool::pinned(3).unwrap();
    let sum = std::sync::atomic::AtomicUsize::new(0);
    let add = |_, range: std::ops::Range<usize>| {
        sum.fetch_add(range.sum(), std::sync::atomic::Ordering::Relaxed);
    };
    pool.parallel_for(1000, 7, add).unwrap();
    assert_eq!(sum.into_inner(), 999 * 500);
}

#[test]
fn every_item_is_visited_once() {
    for threads in [0, 1, 2, 3, 8] {
        for (items, grain) in [(0, 1), (1, 1), (2, 1), (7, 3), (100, 1), (1000, 17), (5, 0), (10, 100)] {
            check(threads, items, grain);
        }
    }
}

#[test]
fn many_small_loops_in_a_row() {
    let pool = Pool::new(4).unwrap();
    let total = AtomicUsize::new(0);
    for n in 0..20_000 {
        pool.parallel_for(n % 9, 1, |_, range| {
            total.fetch_add(range.len(), Ordering::Relaxed);
        })
        .unwrap();
    }
    let expected: usize = (0..20_000).map(|n| n % 9).sum();
    assert_eq!(total.load(Ordering::Relaxed), expected);
}

#[test]
fn sleeping_threads_wake_up() {
    let pool = Pool::new(3).unwrap();
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        let total = AtomicUsize::new(0);
        pool.parallel_for(1000, 1, |_, range| {
            total.fetch_add(range.len(), Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!(total.load(Ordering::Relaxed), 1000);
    }
}

#[test]
fn no_two_tasks_share_a_thread_index() {
    let pool = Pool::new(4).unwrap();
    let busy: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
    pool.parallel_for(500, 1, |thread, _| {
        assert_eq!(busy[thread].fetch_add(1, Ordering::SeqCst), 0);
        std::thread::yield_now();
        busy[thread].fetch_sub(1, Ordering::SeqCst);
    })
    .unwrap();
}

#[test]
fn a_panic_becomes_an_error_and_the_pool_goes_on() {
    let pool = Pool::new(3).unwrap();
    for bad in [0, 57, 99] {
        let task = |_, range: std::ops::Range<usize>| assert!(!range.contains(&bad), "item {bad} is bad");
        let error = pool.parallel_for(100, 1, task).unwrap_err();
        assert!(matches!(&error, KernelError::Panic { message } if message.contains("is bad")), "{error}");
        pool.parallel_for(100, 1, |_, _| {}).unwrap();
    }
}

#[test]
fn a_panic_in_a_loop_inside_a_task_is_contained() {
    let pool = Pool::new(3).unwrap();
    let inner_errors = AtomicUsize::new(0);
    pool.parallel_for(8, 1, |_, outer| {
        let inner = pool.parallel_for(4, 1, |_, _| assert!(outer.start != 3, "inner"));
        inner_errors.fetch_add(usize::from(inner.is_err()), Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!(inner_errors.load(Ordering::Relaxed), 1);
    let error = pool.parallel_for(8, 1, |_, _| pool.parallel_for(1, 1, |_, _| panic!("deep")).unwrap()).unwrap_err();
    assert!(error.to_string().contains("deep"), "{error}");
    pool.parallel_for(10, 1, |_, _| {}).unwrap();
}

#[test]
fn loops_from_several_threads_take_turns() {
    let pool = Pool::new(2).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let total = AtomicUsize::new(0);
                    pool.parallel_for(50, 1, |_, r| {
                        total.fetch_add(r.len(), Ordering::Relaxed);
                    })
                    .unwrap();
                    assert_eq!(total.load(Ordering::Relaxed), 50);
                }
            });
        }
    });
}
