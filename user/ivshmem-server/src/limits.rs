// SPDX-License-Identifier: GPL-2.0 OR MIT

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Raises this process's limit of open files as far as it may: each vector of each client is one,
/// and as many may be in flight to the clients.
pub fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        warn!("cannot raise the limit of open files: {error}");
    }
}
