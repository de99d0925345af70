// SPDX-License-Identifier: GPL-2.0
/*
 * Inline functions and macros of the kernel that Rust cannot call, in the
 * manner of rust/helpers: of page tables, of copies from and to user space, of
 * wait queues; and a module parameter that is a string. No logic of the driver
 * is here.
 */

#include <linux/io.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pgtable.h>
#include <linux/poll.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "../uapi/ivshmem.h"

#ifdef CONFIG_X86
#include <asm/pgtable_types.h>
#include <asm/set_memory.h>
#endif

extern char *ivshmem_helper_memory;
int ivshmem_helper_fill(struct vm_area_struct *vma, unsigned long address,
			unsigned long pfn, unsigned long size);
bool ivshmem_helper_read_user(u64 *to, const void __user *from, size_t words);
bool ivshmem_helper_write_user(void __user *to, const u64 *from, size_t words);
void ivshmem_helper_wake_all(struct wait_queue_head *queue);
bool ivshmem_helper_is_huge(struct vm_fault *vmf);
bool ivshmem_helper_can_have_pages(u64 start, u64 len);
unsigned long ivshmem_helper_held_folios(unsigned long pfn, unsigned long folios,
					 unsigned long *first);
vm_fault_t ivshmem_helper_insert_page(struct vm_fault *vmf, unsigned long pfn);
vm_fault_t ivshmem_helper_insert_folio(struct vm_fault *vmf, unsigned long pfn);
unsigned long ivshmem_helper_leaf_size(struct mm_struct *mm, unsigned long address);
u32 ivshmem_helper_memory_type(pgprot_t prot, unsigned long size);
u32 ivshmem_helper_kernel_memory_type(void *address);

char *ivshmem_helper_memory = "auto";
module_param_named(memory, ivshmem_helper_memory, charp, 0444);
MODULE_PARM_DESC(memory, "Memory type of mappings: auto (write-back), wc or uc");

bool ivshmem_helper_read_user(u64 *to, const void __user *from, size_t words)
{
	const u64 __user *word = from;

	if (!user_read_access_begin(word, words * sizeof(u64)))
		return false;
	while (words--)
		unsafe_get_user(*to++, word++, fault);
	user_read_access_end();
	return true;
fault:
	user_read_access_end();
	return false;
}

bool ivshmem_helper_write_user(void __user *to, const u64 *from, size_t words)
{
	u64 __user *word = to;

	if (!user_write_access_begin(word, words * sizeof(u64)))
		return false;
	while (words--)
		unsafe_put_user(*from++, word++, fault);
	user_write_access_end();
	return true;
fault:
	user_write_access_end();
	return false;
}

void ivshmem_helper_wake_all(struct wait_queue_head *queue)
{
	if (wq_has_sleeper(queue))
		__wake_up(queue, TASK_NORMAL, 0,
			  poll_to_key(EPOLLIN | EPOLLRDNORM | EPOLLERR | EPOLLHUP));
}

struct fill {
	struct vm_area_struct *vma;
	unsigned long pfn;
};

static int fill_one(pte_t *pte, unsigned long address, void *data)
{
	struct fill *fill = data;
	unsigned long pfn = fill->pfn++;

	/* Another fault may have been here first. */
	if (pte_none(ptep_get(pte)))
		set_pte_at(fill->vma->vm_mm, address, pte,
			   pte_mkspecial(pfn_pte(pfn, fill->vma->vm_page_prot)));
	return 0;
}

int ivshmem_helper_fill(struct vm_area_struct *vma, unsigned long address,
			unsigned long pfn, unsigned long size)
{
	struct fill fill = { .vma = vma, .pfn = pfn };

	return apply_to_page_range(vma->vm_mm, address, size, fill_one, &fill);
}

bool ivshmem_helper_is_huge(struct vm_fault *vmf)
{
	return pmd_leaf(pmdp_get_lockless(vmf->pmd));
}

#ifdef CONFIG_ZONE_DEVICE
bool ivshmem_helper_can_have_pages(u64 start, u64 len)
{
	struct range range = mhp_get_pluggable_range(true);

	return start >= range.start && start + len - 1 <= range.end;
}

unsigned long ivshmem_helper_held_folios(unsigned long pfn, unsigned long folios,
					 unsigned long *first)
{
	unsigned long i, held = 0;

	for (i = 0; i < folios; i++, pfn += PMD_SIZE / PAGE_SIZE) {
		/* One reference is the memory map's own. */
		if (folio_ref_count(pfn_folio(pfn)) == 1)
			continue;
		if (!held++)
			*first = i;
	}
	return held;
}

vm_fault_t ivshmem_helper_insert_page(struct vm_fault *vmf, unsigned long pfn)
{
	return vmf_insert_page_mkwrite(vmf, pfn_to_page(pfn),
				       vmf->flags & FAULT_FLAG_WRITE);
}

vm_fault_t ivshmem_helper_insert_folio(struct vm_fault *vmf, unsigned long pfn)
{
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	return vmf_insert_folio_pmd(vmf, pfn_folio(pfn), vmf->flags & FAULT_FLAG_WRITE);
#else
	return VM_FAULT_FALLBACK;
#endif
}
#else
bool ivshmem_helper_can_have_pages(u64 start, u64 len)
{
	return false;
}

unsigned long ivshmem_helper_held_folios(unsigned long pfn, unsigned long folios,
					 unsigned long *first)
{
	return 0;
}

vm_fault_t ivshmem_helper_insert_page(struct vm_fault *vmf, unsigned long pfn)
{
	return VM_FAULT_SIGBUS;
}

vm_fault_t ivshmem_helper_insert_folio(struct vm_fault *vmf, unsigned long pfn)
{
	return VM_FAULT_FALLBACK;
}
#endif

/* The caller holds the mmap lock; the leaves may come and go meanwhile. */
unsigned long ivshmem_helper_leaf_size(struct mm_struct *mm, unsigned long address)
{
	unsigned long size = 0;
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;
	pmd_t pmd;

	if (pgd_none(*pgd))
		return 0;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d))
		return 0;
	pud = pud_offset(p4d, address);
	if (pud_none(*pud))
		return 0;
	rcu_read_lock();
	pmd = pmdp_get_lockless(pmd_offset(pud, address));
	if (pmd_leaf(pmd))
		size = PMD_SIZE;
	else if (pmd_present(pmd) && !pte_none(ptep_get(pte_offset_kernel(&pmd, address))))
		size = PAGE_SIZE;
	rcu_read_unlock();
	return size;
}

#ifdef CONFIG_X86
u32 ivshmem_helper_memory_type(pgprot_t prot, unsigned long size)
{
	unsigned long bits;

	/* The PAT bit of a huge leaf is elsewhere. */
	if (size > PAGE_SIZE)
		prot = pgprot_large_2_4k(prot);
	bits = pgprot_val(prot) & _PAGE_CACHE_MASK;
	if (bits == cachemode2protval(_PAGE_CACHE_MODE_WB))
		return IVSHMEM_MEMORY_WB;
	if (bits == cachemode2protval(_PAGE_CACHE_MODE_WC))
		return IVSHMEM_MEMORY_WC;
	if (bits == cachemode2protval(_PAGE_CACHE_MODE_UC_MINUS) ||
	    bits == cachemode2protval(_PAGE_CACHE_MODE_UC))
		return IVSHMEM_MEMORY_UC;
	return IVSHMEM_MEMORY_OTHER;
}

u32 ivshmem_helper_kernel_memory_type(void *address)
{
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)address, &level);

	if (!pte)
		return IVSHMEM_MEMORY_OTHER;
	return ivshmem_helper_memory_type(__pgprot(pte_flags(*pte)),
					  page_level_size(level));
}
#else
u32 ivshmem_helper_memory_type(pgprot_t prot, unsigned long size)
{
	/* Only this much can be told portably: is it as device memory is? */
	if (pgprot_val(prot) == pgprot_val(pgprot_noncached(prot)))
		return IVSHMEM_MEMORY_UC;
	if (pgprot_val(prot) == pgprot_val(pgprot_writecombine(prot)))
		return IVSHMEM_MEMORY_WC;
	return IVSHMEM_MEMORY_WB;
}

u32 ivshmem_helper_kernel_memory_type(void *address)
{
	/* No other architecture turns a write-back mapping into another. */
	return IVSHMEM_MEMORY_WB;
}
#endif
