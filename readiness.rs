// SPDX-License-Identifier: GPL-2.0

//! Waiting for a revision 0 device to become ready.
//!
//! Such a device has no ID, and possibly no memory, until its server has sent them, and no
//! interrupt to say that it now has. IVPosition reads -1 until then, so it is looked at now and
//! then. Revision 1 devices are ready before the guest can see them.

use crate::device::Device;
use kernel::{
    impl_has_hr_timer,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    time::{
        hrtimer::{
            ArcHrTimerHandle,
            HrTimer,
            HrTimerCallback,
            HrTimerCallbackContext,
            HrTimerPointer,
            HrTimerRestart,
            RelativeMode, //
        },
        Delta,
        Monotonic, //
    }, //
};

/// How long until the next look.
const INTERVAL: Delta = Delta::from_millis(20);

/// Looks at IVPosition until it is valid. Ends when the handle from [`Watch::begin`] is dropped.
#[pin_data]
pub(crate) struct Watch {
    #[pin]
    timer: HrTimer<Self>,
    device: Arc<Device>,
}

/// Keeps a watch going.
pub(crate) type Watching = ArcHrTimerHandle<Watch>;

impl Watch {
    /// A watch that has not begun.
    pub(crate) fn new(device: &Arc<Device>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                timer <- HrTimer::new(),
                device: device.clone(),
            }),
            GFP_KERNEL,
        )
    }

    /// Begins to look. It must not be going on already.
    pub(crate) fn begin(self: &Arc<Self>) -> Watching {
        self.clone().start(INTERVAL)
    }
}

impl HrTimerCallback for Watch {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        mut context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        if this.device.look_if_ready() {
            return HrTimerRestart::NoRestart;
        }
        context.forward_now(INTERVAL);
        HrTimerRestart::Restart
    }
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Watch {
        mode: RelativeMode<Monotonic>, field: self.timer
    }
}
