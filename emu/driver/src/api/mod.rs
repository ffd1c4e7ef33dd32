//! The exported functions, by family. Each file declares its functions as a table and says what they do.

mod capture;
mod context;
mod copy;
mod device;
mod errors;
mod event;
mod exec;
mod fill;
mod function;
mod graph;
mod launch;
mod library;
mod link;
mod memory;
mod module;
mod node;
mod object;
mod occupancy;
mod params;
mod pool;
mod proc;
mod stream;
mod unsupported;
mod values;

/// Every table.
static TABLES: &[&[&crate::call::Export]] = &[
    capture::TABLE,
    context::TABLE,
    copy::TABLE,
    device::TABLE,
    errors::TABLE,
    event::TABLE,
    exec::TABLE,
    fill::TABLE,
    function::TABLE,
    graph::TABLE,
    launch::TABLE,
    library::TABLE,
    link::TABLE,
    memory::TABLE,
    module::TABLE,
    node::TABLE,
    object::TABLE,
    occupancy::TABLE,
    pool::TABLE,
    proc::TABLE,
    stream::TABLE,
    unsupported::TABLE,
    values::TABLE,
];
