// SPDX-License-Identifier: GPL-2.0

//! Misc devices that can be polled, and of which there are several.
//!
//! `kernel::miscdevice` has neither `poll()` nor a name, parent, mode, sysfs attributes or data of
//! its own for each device. This one does.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)

use crate::abstractions::{
    vma::{
        self,
        Pager, //
    },
    wait::WaitQueue, //
};
use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::{
    bindings,
    container_of,
    device,
    error::to_result,
    ffi,
    fmt::{
        self,
        Write, //
    },
    fs::File,
    iov::IovIterDest,
    mm::virt::VmaNew,
    module::{
        this_module,
        ModuleMetadata, //
    },
    prelude::*,
    seq_file::SeqFile,
    str::{
        CString,
        Formatter, //
    },
    sync::Arc,
    types::Opaque,
    uaccess::UserPtr, //
};

/// `include/linux/fs.h` defines it with a cast that bindgen does not follow.
const FMODE_NOWAIT: u32 = 1 << 27;
/// Likewise.
const IOCB_NOWAIT: ffi::c_int = 8;

/// The longest value of an attribute, with its newline and a NUL.
const MAX_VALUE: usize = 64;

/// What [`OpenFile::poll`] returns.
pub(crate) use kernel::bindings::{
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLRDNORM, //
};

/// An open file of a misc device.
pub(crate) trait OpenFile: Send + Sync + Sized + 'static {
    /// The module that must stay loaded while a file is open.
    type Module: ModuleMetadata;

    /// What all open files of one device share.
    type Shared: Attributes + Send + Sync + 'static;

    /// Opens the device. The file is released by dropping what this returns.
    fn open(shared: &Arc<Self::Shared>, file: &File) -> Result<Pin<KBox<Self>>>;

    /// The memory that a mapping of the file maps.
    type Pager: Pager;

    /// The memory itself.
    fn pager(&self) -> &Self::Pager;

    /// Handles an ioctl. The argument is a pointer in all of them.
    fn ioctl(&self, file: &File, cmd: u32, arg: UserPtr) -> Result<isize>;

    /// Reads; the file has no position.
    fn read(&self, nonblocking: bool, to: &mut IovIterDest<'_>) -> Result<usize>;

    /// Decides on a mapping, which the pager will serve.
    fn mmap(&self, vma: &VmaNew) -> Result;

    /// The queue that is woken when what [`Self::poll`] returns may have changed.
    fn poll_queue(&self) -> &WaitQueue;

    /// Which events of `poll(2)` there are now.
    fn poll(&self) -> u32;

    /// Shows the file in `/proc/PID/fdinfo`.
    fn show_fdinfo(&self, m: &SeqFile);
}

/// Adds an attribute, in a directory of its own kind or directly to the device.
pub(crate) type Add<'a, I> = dyn FnMut(Option<&'static CStr>, I, fmt::Arguments<'_>) -> Result + 'a;

/// The sysfs attributes of a device. All are read-only.
pub(crate) trait Attributes {
    /// Identifies an attribute.
    type Id: Copy + Send + Sync + 'static;

    /// Calls `add` with the directory, the identity and the file name of each attribute.
    fn list(&self, add: &mut Add<'_, Self::Id>) -> Result;

    /// Formats the value, without the newline.
    fn show(&self, id: Self::Id, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

struct Attribute<I> {
    attr: bindings::device_attribute,
    name: CString,
    directory: Option<&'static CStr>,
    id: I,
}

/// The attributes as the driver core wants them: pointers into memory that does not move.
struct AttributeTable<I> {
    _attributes: KVVec<Attribute<I>>,
    _pointers: KVec<KVVec<*mut bindings::attribute>>,
    _groups: KVec<bindings::attribute_group>,
    group_pointers: KVec<*const bindings::attribute_group>,
}

// SAFETY: The pointers all lead into the value itself.
unsafe impl<I: Send> Send for AttributeTable<I> {}
// SAFETY: As above; nothing is written after `new`.
unsafe impl<I: Sync> Sync for AttributeTable<I> {}

struct Show<'a, A: Attributes>(&'a A, A::Id);

impl<A: Attributes> fmt::Display for Show<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show(self.1, f)
    }
}

impl<I: Copy + Send + Sync + 'static> AttributeTable<I> {
    fn new<T: OpenFile>(shared: &T::Shared) -> Result<Self>
    where
        T::Shared: Attributes<Id = I>,
    {
        let mut attributes = KVVec::new();
        let mut directories: KVec<Option<&'static CStr>> = KVec::new();
        shared.list(&mut |directory, id, name| {
            if !directories.iter().any(|known| *known == directory) {
                directories.push(directory, GFP_KERNEL)?;
            }
            let attribute = Attribute {
                attr: pin_init::zeroed(),
                name: CString::try_from_fmt(name)?,
                directory,
                id,
            };
            Ok(attributes.push(attribute, GFP_KERNEL)?)
        })?;
        let mut pointers = KVec::new();
        let mut groups = KVec::new();
        for directory in &directories {
            let mut members = KVVec::new();
            for attribute in attributes.iter_mut().filter(|a| a.directory == *directory) {
                attribute.attr.attr.name = attribute.name.as_char_ptr();
                attribute.attr.attr.mode = 0o444;
                // Lockdep cannot use the address of an attribute that is not static.
                #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
                {
                    attribute.attr.attr.key = kernel::static_lock_class!().as_ptr();
                }
                attribute.attr.__bindgen_anon_1.show = Some(show::<T>);
                members.push(&raw mut attribute.attr.attr, GFP_KERNEL)?;
            }
            members.push(ptr::null_mut(), GFP_KERNEL)?;
            let mut group: bindings::attribute_group = pin_init::zeroed();
            group.name = directory.map_or(ptr::null(), CStr::as_char_ptr);
            group.__bindgen_anon_2.attrs = members.as_mut_ptr();
            pointers.push(members, GFP_KERNEL)?;
            groups.push(group, GFP_KERNEL)?;
        }
        let mut group_pointers = KVec::new();
        for group in &groups {
            group_pointers.push(ptr::from_ref(group), GFP_KERNEL)?;
        }
        group_pointers.push(ptr::null(), GFP_KERNEL)?;
        Ok(Self {
            _attributes: attributes,
            _pointers: pointers,
            _groups: groups,
            group_pointers,
        })
    }
}

/// # Safety
///
/// `dev` must be the device of a [`Registration<T>`], and `attr` one of its attributes.
unsafe extern "C" fn show<T: OpenFile>(
    dev: *mut bindings::device,
    attr: *mut bindings::device_attribute,
    buf: *mut ffi::c_char,
) -> isize {
    // SAFETY: `misc_register()` has set the driver data to the miscdevice.
    let misc = unsafe { bindings::dev_get_drvdata(dev) }.cast::<Opaque<bindings::miscdevice>>();
    // SAFETY: That is the field of a `Registration<T>`.
    let registration = unsafe { container_of!(misc, Registration<T>, misc) };
    // SAFETY: `misc_deregister()` removes the attributes and waits for their users, so the
    // registration exists. Other fields than this one may not be initialised yet.
    let shared = unsafe { &(*registration).shared };
    // SAFETY: All attributes of the device are the field of an `Attribute`.
    let attribute = unsafe { container_of!(attr, Attribute<<T::Shared as Attributes>::Id>, attr) };
    // SAFETY: The table of attributes lives as long as the registration.
    let id = unsafe { (*attribute).id };
    // Formatted once: the value may be another the next time.
    let mut text = [0; MAX_VALUE];
    let value = Show(&**shared, id);
    if Formatter::new(&mut text)
        .write_fmt(fmt!("{value}\n\0"))
        .is_err()
    {
        return EOVERFLOW.to_errno() as isize;
    }
    // SAFETY: sysfs hands a page to write to; the format takes one string, which ends with a NUL.
    unsafe { bindings::sysfs_emit(buf, c"%s".as_char_ptr(), text.as_ptr()) as isize }
}

struct FileOperations(bindings::file_operations);

// SAFETY: Never written after its initialisation.
unsafe impl Sync for FileOperations {}

struct Operations<T>(PhantomData<T>);

impl<T: OpenFile> Operations<T> {
    const TABLE: FileOperations = FileOperations(bindings::file_operations {
        owner: this_module::<T::Module>().as_ptr(),
        open: Some(Self::open),
        release: Some(Self::release),
        read_iter: Some(Self::read_iter),
        poll: Some(Self::poll),
        unlocked_ioctl: Some(Self::ioctl),
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: bindings::compat_ptr_ioctl,
        mmap: Some(Self::mmap),
        #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
        get_unmapped_area: Some(bindings::thp_get_unmapped_area),
        show_fdinfo: Some(Self::show_fdinfo),
        ..pin_init::zeroed()
    });

    const fn table() -> &'static bindings::file_operations {
        &Self::TABLE.0
    }

    /// # Safety
    ///
    /// `file` must be open by [`Self::open`], and stay so for `'a`.
    unsafe fn this<'a>(file: *mut bindings::file) -> &'a T {
        // SAFETY: `open` has set it, and only `release` takes it away.
        unsafe { &*(*file).private_data.cast::<T>() }
    }

    /// # Safety
    ///
    /// As the `open` operation of a device of [`Registration<T>`].
    unsafe extern "C" fn open(inode: *mut bindings::inode, raw: *mut bindings::file) -> ffi::c_int {
        // SAFETY: `misc_open()` has set it to the miscdevice.
        let misc = unsafe { (*raw).private_data }.cast::<Opaque<bindings::miscdevice>>();
        // SAFETY: Which is the field of a `Registration<T>`.
        let registration = unsafe { container_of!(misc, Registration<T>, misc) };
        // SAFETY: `misc_open()` holds off `misc_deregister()`, and so the drop, during this call.
        let shared = unsafe { &(*registration).shared };
        // SAFETY: The file is valid for the duration of this call, and this thread holds no position.
        let file = unsafe { File::from_raw_file(raw) };
        let this = match T::open(shared, file) {
            Ok(this) => this,
            Err(err) => return err.to_errno(),
        };
        // SAFETY: `this` becomes the file's private data, which is dropped after its mappings.
        unsafe { this.pager().inode().adopt(raw) };
        // SAFETY: The value is not moved: it stays in its box.
        let this = KBox::into_raw(unsafe { Pin::into_inner_unchecked(this) });
        // SAFETY: Nobody else uses a file that is being opened.
        unsafe { (*raw).private_data = this.cast() };
        // SAFETY: As above. `read()` can do without waiting.
        unsafe { (*raw).f_mode |= FMODE_NOWAIT };
        // SAFETY: The inode and the file are valid. It always returns 0.
        unsafe { bindings::stream_open(inode, raw) }
    }

    /// # Safety
    ///
    /// As the `release` operation of an open file of `T`.
    unsafe extern "C" fn release(
        _inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> ffi::c_int {
        // SAFETY: `open` has set it.
        let this = unsafe { (*file).private_data }.cast::<T>();
        // SAFETY: `open` has taken it out of a box, and this is the last operation of the file.
        drop(unsafe { Pin::<KBox<T>>::from(KBox::from_raw(this)) });
        0
    }

    /// # Safety
    ///
    /// As the `read_iter` operation of an open file of `T`.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: The caller hands a valid `struct kiocb`.
        let (file, flags) = unsafe { ((*kiocb).ki_filp, (*kiocb).ki_flags) };
        // SAFETY: The file is open during this call.
        let f_flags = unsafe { (*file).f_flags };
        let nonblocking = flags & IOCB_NOWAIT != 0 || f_flags & bindings::O_NONBLOCK != 0;
        // SAFETY: The file is open during this call.
        let this = unsafe { Self::this(file) };
        // SAFETY: The caller hands a valid `struct iov_iter` to write to.
        match this.read(nonblocking, unsafe { IovIterDest::from_raw(iter) }) {
            Ok(len) => len as isize,
            Err(err) => err.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// As the `poll` operation of an open file of `T`.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: The file is open during this call.
        let this = unsafe { Self::this(file) };
        let queue = this.poll_queue().as_ptr();
        // SAFETY: The queue is borrowed from the private data, which is dropped at the release;
        // pollers hold the file or leave the queue before that.
        unsafe { bindings::poll_wait(file, queue, table) };
        this.poll()
    }

    /// # Safety
    ///
    /// As the `unlocked_ioctl` operation of an open file of `T`.
    unsafe extern "C" fn ioctl(
        file: *mut bindings::file,
        cmd: ffi::c_uint,
        arg: ffi::c_ulong,
    ) -> ffi::c_long {
        // SAFETY: The file is open during this call.
        let this = unsafe { Self::this(file) };
        // SAFETY: The file is valid for the duration of this call, and this thread holds no position.
        let file = unsafe { File::from_raw_file(file) };
        match this.ioctl(file, cmd, UserPtr::from_addr(arg)) {
            Ok(value) => value as ffi::c_long,
            Err(err) => err.to_errno() as ffi::c_long,
        }
    }

    /// # Safety
    ///
    /// As the `mmap` operation of an open file of `T`.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> ffi::c_int {
        // SAFETY: The file is open during this call.
        let this = unsafe { Self::this(file) };
        // SAFETY: The caller hands an area that is being set up.
        let vma = unsafe { VmaNew::from_raw(vma) };
        match vma::check_shared(vma).and_then(|()| this.mmap(vma)) {
            Ok(()) => {
                // SAFETY: The area was checked. It holds the file, and the file the pager.
                unsafe { vma::set_up(vma, this.pager()) };
                0
            }
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// As the `show_fdinfo` operation of an open file of `T`.
    unsafe extern "C" fn show_fdinfo(m: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: The file is open during this call.
        let this = unsafe { Self::this(file) };
        // SAFETY: The caller hands a file to print to.
        this.show_fdinfo(unsafe { SeqFile::from_raw(m) });
    }
}

/// A misc device, `/dev/<name>`, from its registration to its removal.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: OpenFile> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    name: CString,
    attributes: AttributeTable<<T::Shared as Attributes>::Id>,
    shared: Arc<T::Shared>,
}

// SAFETY: A misc device may be removed on any thread.
unsafe impl<T: OpenFile> Send for Registration<T> {}
// SAFETY: Nothing can be changed through a shared reference.
unsafe impl<T: OpenFile> Sync for Registration<T> {}

impl<T: OpenFile> Registration<T> {
    /// Registers the device as a child of `parent`. Its files can be opened from here on.
    pub(crate) fn new(
        parent: &device::Device<device::Bound>,
        name: CString,
        shared: Arc<T::Shared>,
    ) -> Result<Pin<KBox<Self>>> {
        let attributes = AttributeTable::new::<T>(&shared)?;
        let parent = ptr::from_ref(parent).cast_mut().cast::<bindings::device>();
        KBox::try_pin_init(
            // The device can be opened and its attributes be read before `misc_register()`
            // returns: it comes last.
            try_pin_init!(&this in Self {
                name,
                attributes,
                shared,
                misc <- Opaque::try_ffi_init(|slot: *mut bindings::miscdevice| {
                    // SAFETY: These fields were initialised just now.
                    let (name, attributes) =
                        unsafe { (&(*this.as_ptr()).name, &(*this.as_ptr()).attributes) };
                    // SAFETY: `slot` may be written.
                    unsafe {
                        slot.write(bindings::miscdevice {
                            minor: bindings::MISC_DYNAMIC_MINOR as ffi::c_int,
                            name: name.as_char_ptr(),
                            fops: Operations::<T>::table(),
                            parent,
                            groups: attributes.group_pointers.as_ptr().cast_mut(),
                            mode: 0o600,
                            ..pin_init::zeroed()
                        })
                    };
                    // SAFETY: `slot` was just filled in. What it points to is pinned or on the
                    // heap, and stays until the drop has deregistered the device.
                    to_result(unsafe { bindings::misc_register(slot) })
                }),
            }? Error),
            GFP_KERNEL,
        )
    }
}

#[pinned_drop]
impl<T: OpenFile> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `new` has registered it.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}
