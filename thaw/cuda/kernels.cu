// What thaw runs on a CUDA device: CRC32C of bytes where they are, and copies between many places.
//
// A CRC is the remainder of the message as a polynomial over GF(2), so it can be taken apart: each
// block computes the remainder of one segment, with a start value of zero, and the remainders are
// joined afterwards, each multiplied by x to the number of bits that follow it.
//
// Polynomials are bit-reflected, as everywhere with CRC32C: bit 31 is the coefficient of x^0.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr u32 POLYNOMIAL = 0x82f63b78;
constexpr u32 THREADS = 256;
constexpr u32 WORD_NBYTES = 16;
constexpr u32 ROW_NBYTES = THREADS * WORD_NBYTES;
constexpr u32 SEGMENT_NBYTES = 65536;
constexpr u32 ROWS_AT_ONCE = 4;

struct Segment {
    u64 address;
    u64 nbytes;
};

struct Run {
    u64 first;
    u64 count;
};

struct CopyRange {
    u64 from;
    u64 to;
    u64 nbytes;
};

__host__ __device__ constexpr u32 times_x(u32 a) {
    return (a >> 1) ^ ((a & 1) ? POLYNOMIAL : 0);
}

__host__ __device__ constexpr u32 times(u32 a, u32 b) {
    u32 product = 0;
    for (int bit = 31; bit >= 0; --bit) {
        product ^= (a >> bit & 1) ? b : 0;
        b = times_x(b);
    }
    return product;
}

// x to the number of bits in `nbytes` bytes.
__host__ __device__ constexpr u32 shift_by(u64 nbytes) {
    u32 power = 0x80000000, square = 0x00800000;
    for (; nbytes; nbytes >>= 1) {
        if (nbytes & 1) power = times(power, square);
        square = times(square, square);
    }
    return power;
}

struct Table {
    u32 of[4][256];
};

// The product of every byte, at each of the four places in a word, with x to the bits of a row.
__host__ __device__ constexpr Table row_table() {
    Table table{};
    for (int place = 0; place < 4; ++place) {
        u32 bit[8] = {};
        for (int i = 0; i < 8; ++i) bit[i] = times(1u << (8 * place + i), shift_by(ROW_NBYTES));
        for (int value = 0; value < 256; ++value)
            for (int i = 0; i < 8; ++i)
                if (value >> i & 1) table.of[place][value] ^= bit[i];
    }
    return table;
}

__device__ constexpr Table ROW_TABLE = row_table();

__device__ u32 times_row(const Table& table, u32 a) {
    return table.of[0][a & 255] ^ table.of[1][a >> 8 & 255] ^ table.of[2][a >> 16 & 255] ^
           table.of[3][a >> 24];
}

__device__ void keep_from(uint4& word, u32 start) {
    u32* lane = &word.x;
    for (u32 i = 0; i < 4; ++i) {
        u32 dropped = start > 4 * i ? min(start - 4 * i, 4u) : 0;
        lane[i] &= dropped == 4 ? 0 : 0xffffffffu << (8 * dropped);
    }
}

// One word of 16 bytes; zero before the segment, which leaves a remainder as it is.
__device__ uint4 word_at(const uint4* words, long long index, u32 skipped) {
    if (index < 0) return make_uint4(0, 0, 0, 0);
    uint4 word = words[index];
    if (index == 0 && skipped) keep_from(word, skipped);
    return word;
}

// The remainder of whole words, held by thread 0 alone.
__device__ u32 words_remainder(const uint4* words, u64 count, u32 skipped, const Table& table) {
    __shared__ u32 warps[THREADS / 32];
    const u32 thread = threadIdx.x;
    const u64 rows = (count + THREADS - 1) / THREADS;
    const long long first = (long long)thread - (long long)(rows * THREADS - count);
    uint4 sum = make_uint4(0, 0, 0, 0);
    for (u64 row = 0; row < rows; row += ROWS_AT_ONCE) {
        const u32 here = (u32)min(rows - row, (u64)ROWS_AT_ONCE);
        uint4 loaded[ROWS_AT_ONCE];
#pragma unroll
        for (u32 i = 0; i < ROWS_AT_ONCE; ++i)
            if (i < here) loaded[i] = word_at(words, first + (long long)(row + i) * THREADS, skipped);
#pragma unroll
        for (u32 i = 0; i < ROWS_AT_ONCE; ++i) {
            if (i >= here) break;
            sum.x = times_row(table, sum.x) ^ loaded[i].x;
            sum.y = times_row(table, sum.y) ^ loaded[i].y;
            sum.z = times_row(table, sum.z) ^ loaded[i].z;
            sum.w = times_row(table, sum.w) ^ loaded[i].w;
        }
    }
    constexpr u32 by_lane = shift_by(4);
    u32 joined = times(sum.x, by_lane) ^ sum.y;
    joined = times(joined, by_lane) ^ sum.z;
    joined = times(joined, by_lane) ^ sum.w;
    u32 shift = shift_by(WORD_NBYTES);
    for (u32 step = 1; step < 32; step *= 2) {
        const u32 next = __shfl_down_sync(0xffffffff, joined, step);
        joined = times(joined, shift) ^ next;
        shift = times(shift, shift);
    }
    if (thread % 32 == 0) warps[thread / 32] = joined;
    __syncthreads();
    if (thread) return 0;
    joined = 0;
    for (u32 warp = 0; warp < THREADS / 32; ++warp) joined = times(joined, shift) ^ warps[warp];
    return times(joined, by_lane);
}

// Computes the remainder of each segment of at most SEGMENT_NBYTES; one block a segment.
extern "C" __global__ void __launch_bounds__(THREADS)
    thaw_remainders(const Segment* segments, u32* remainders) {
    __shared__ Table table;
    for (u32 i = threadIdx.x; i < 4 * 256; i += THREADS)
        table.of[i / 256][i % 256] = ROW_TABLE.of[i / 256][i % 256];
    __syncthreads();
    const Segment segment = segments[blockIdx.x];
    const u64 end = segment.address + segment.nbytes;
    const u64 begin_word = segment.address / WORD_NBYTES, end_word = end / WORD_NBYTES;
    const u32 skipped = (u32)(segment.address % WORD_NBYTES);
    u32 remainder = words_remainder((const uint4*)(begin_word * WORD_NBYTES),
                                    end_word - begin_word, skipped, table);
    if (threadIdx.x) return;
    const u64 tail = max(segment.address, end_word * WORD_NBYTES);
    for (u64 at = tail; at < end; ++at) {
        remainder ^= *(const u8*)at;
        for (int bit = 0; bit < 8; ++bit) remainder = times_x(remainder);
    }
    remainders[blockIdx.x] = remainder;
}

// Joins the remainders of the segments of each run to its CRC32C; one thread a run.
extern "C" __global__ void thaw_join(const Segment* segments, const u32* remainders,
                                     const Run* runs, u32 count, u32* crcs) {
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    constexpr u32 by_segment = shift_by(SEGMENT_NBYTES);
    u32 crc = 0xffffffff;
    for (u64 i = runs[index].first; i < runs[index].first + runs[index].count; ++i) {
        const u64 nbytes = segments[i].nbytes;
        crc = times(crc, nbytes == SEGMENT_NBYTES ? by_segment : shift_by(nbytes)) ^ remainders[i];
    }
    crcs[index] = ~crc;
}

// Copies each range; one block a range. Addresses and sizes are free, ranges must not overlap.
extern "C" __global__ void __launch_bounds__(THREADS) thaw_copy(const CopyRange* ranges) {
    const CopyRange range = ranges[blockIdx.x];
    const u64 unit = (range.from ^ range.to) % 16 ? 4 : 16;
    const u64 head = min((unit - range.to % unit) % unit, range.nbytes);
    const u64 from = range.from + head, to = range.to + head;
    const u64 count = (range.nbytes - head) / unit;
    if (unit == 16) {
        for (u64 i = threadIdx.x; i < count; i += THREADS) ((uint4*)to)[i] = ((const uint4*)from)[i];
    } else {
        const u32* words = (const u32*)(from / 4 * 4);
        const u32 shift = (u32)(from % 4) * 8;
        for (u64 i = threadIdx.x; i < count; i += THREADS)
            ((u32*)to)[i] = shift ? __funnelshift_r(words[i], words[i + 1], shift) : words[i];
    }
    const u64 tail = head + count * unit;
    const u64 loose = head + range.nbytes - tail;
    for (u64 i = threadIdx.x; i < loose; i += THREADS) {
        const u64 at = i < head ? i : tail + i - head;
        ((u8*)range.to)[at] = ((const u8*)range.from)[at];
    }
}
