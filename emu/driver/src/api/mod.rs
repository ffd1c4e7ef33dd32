//! The exported functions, by family. Each file declares its functions as a table and says what they do.

mod context;
mod copy;
mod device;
mod errors;
mod event;
mod fill;
mod function;
mod launch;
mod library;
mod link;
mod memory;
mod module;
mod occupancy;
mod pool;
mod proc;
mod stream;
mod unsupported;
mod values;

/// Every table.
static TABLES: &[&[&crate::call::Export]] = &[
    context::TABLE,
    copy::TABLE,
    device::TABLE,
    errors::TABLE,
    event::TABLE,
    fill::TABLE,
    function::TABLE,
    launch::TABLE,
    library::TABLE,
    link::TABLE,
    memory::TABLE,
    module::TABLE,
    occupancy::TABLE,
    pool::TABLE,
    proc::TABLE,
    stream::TABLE,
    unsupported::TABLE,
    values::TABLE,
];
