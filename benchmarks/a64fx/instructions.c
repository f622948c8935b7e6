// A QEMU plugin that counts executed instructions: all, those of SVE, and those of NEON and scalar floating point.
//
// The counted program asks for the counts so far by closing file descriptor MARK, which no program has: each such call
// adds a line "all sve neon" to the file of the argument out=. Counting is exact for one thread (the additions of
// several may meet). QEMU's plugin interface is declared here as its documentation gives it (docs/devel/tcg-plugins,
// API version 1), because Debian packages no header for it.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*translated_cb)(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void (*syscall_cb)(qemu_plugin_id_t, unsigned int cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                           uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_cb);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_cb);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, enum qemu_plugin_op, void*, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);

int qemu_plugin_version = 1;

enum { ALL, SVE, NEON, KINDS };
static uint64_t counts[KINDS];
static FILE* out;

// Arm Architecture Reference Manual, C4.1: bits 28 to 25 say the group of an instruction.
static int kind_of(uint32_t code) {
    const uint32_t group = code >> 25 & 15;
    if (group == 2) {
        return SVE;
    }
    const int stores_vectors = (group & 5) == 4 && (code >> 26 & 1);
    return (group & 7) == 7 || stores_vectors ? NEON : ALL;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
    (void)id;
    uint64_t of[KINDS] = {0};
    of[ALL] = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < of[ALL]; ++i) {
        uint32_t code;
        memcpy(&code, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof(code));
        const int kind = kind_of(code);
        of[kind] += kind != ALL;
    }
    for (int kind = 0; kind < KINDS; ++kind) {
        if (of[kind] != 0) {
            qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &counts[kind], of[kind]);
        }
    }
}

static void called(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    const int64_t close_number = 57;
    if (number == close_number && a1 == MARK) {
        fprintf(out, "%llu %llu %llu\n", (unsigned long long)counts[ALL], (unsigned long long)counts[SVE],
                (unsigned long long)counts[NEON]);
        fflush(out);
    }
}

int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t* info, int count, char** arguments) {
    (void)info;
    if (count != 1 || strncmp(arguments[0], "out=", 4) != 0 || (out = fopen(arguments[0] + 4, "w")) == NULL) {
        fprintf(stderr, "the plugin needs out=FILE, a file that it can write\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
