//! A short load of every kind of client; `cargo run --release -p rocmforge-e2e --bin load -- soak` is the long one.

use std::time::Duration;

use rocmforge_e2e::load::{Plan, run, serve_demo, stop_under_load};

#[test]
fn a_server_under_load_loses_no_request_and_keeps_nothing() {
    let plan = Plan {
        clients: 24,
        requests: 500,
        warm_up: 250,
        limit: Duration::from_secs(90),
        half_open: 100,
        idle: Duration::from_secs(5),
    };
    let mut server = serve_demo();
    let report = run(&server, &plan);
    println!("{}", report.text());
    assert_eq!(report.faults(), [""; 0]);
    assert_eq!(stop_under_load(&mut server, 8), Ok(()));
}
