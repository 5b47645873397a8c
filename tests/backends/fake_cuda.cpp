// Stands in for the CUDA driver where there is no GPU: "device" memory is host memory, each stream is
// a thread that works late on purpose, and the kernels are written out plainly. It shows that the
// native backend waits for what it must wait for; it says nothing of speed or of real drivers.
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <thread>

namespace {
constexpr int OUT_OF_MEMORY = 2, INVALID_HANDLE = 400, NOT_READY = 600, DEVICES = 8,
              MEMORY_POOLS = 115;

char contexts[DEVICES];
thread_local void* current = nullptr;

struct Function {
    bool copies;
    void* context;
};

struct Stream {
    void* context = current;
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> work;
    bool busy = false;
    std::thread thread{[this] { run(); }};

    void run() {
        std::minstd_rand random(std::random_device{}());
        for (;;) {
            std::unique_lock lock(mutex);
            changed.wait(lock, [this] { return !work.empty(); });
            auto next = std::move(work.front());
            work.pop_front();
            busy = true;
            lock.unlock();
            if (random() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
            next();
            lock.lock();
            busy = false;
            changed.notify_all();
        }
    }
    int add(std::function<void()> item) {
        std::lock_guard lock(mutex);
        work.push_back(std::move(item));
        changed.notify_all();
        return 0;
    }
    bool idle() { return work.empty() && !busy; }
};

uint32_t remainder(const uint8_t* bytes, uint64_t nbytes) {
    uint32_t value = 0;
    for (uint64_t i = 0; i < nbytes; ++i) {
        value ^= bytes[i];
        for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) ? 0x82f63b78u : 0);
    }
    return value;
}

bool refuses(const char* what) {
    const char* told = getenv("FAKE_CUDA_REFUSES");
    return told && strstr(told, what);
}

// A real driver allows more; but each thread of the backend is to be where its device is.
int add(void* handle, std::function<void()> item) {
    auto* stream = static_cast<Stream*>(handle);
    return stream->context == current ? stream->add(std::move(item)) : INVALID_HANDLE;
}
}  // namespace

#define API extern "C" __attribute__((visibility("default"))) int

API cuInit(unsigned) { return 0; }
API cuDeviceGetCount(int* count) { return *count = DEVICES, 0; }
API cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
    return *value = !(attribute == MEMORY_POOLS && refuses("memory pools")), 0;
}
API cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &contexts[device], 0; }
API cuCtxGetCurrent(void** context) { return *context = current, 0; }
API cuCtxSetCurrent(void* context) { return current = context, 0; }
API cuStreamCreate(void** stream, unsigned) { return *stream = new Stream, 0; }
API cuStreamDestroy_v2(void*) { return 0; }
API cuStreamSynchronize(void* handle) {
    auto* stream = static_cast<Stream*>(handle);
    std::unique_lock lock(stream->mutex);
    stream->changed.wait(lock, [&] { return stream->idle(); });
    return 0;
}
API cuStreamQuery(void* handle) {
    auto* stream = static_cast<Stream*>(handle);
    std::lock_guard lock(stream->mutex);
    return stream->idle() ? 0 : NOT_READY;
}
API cuStreamWriteValue32_v2(void* stream, uint64_t to, uint32_t value, unsigned) {
    return add(stream, [=] {
        std::atomic_thread_fence(std::memory_order_release);
        *reinterpret_cast<volatile uint32_t*>(to) = value;
    });
}
API cuMemHostRegister_v2(void*, size_t, unsigned) { return refuses("cuMemHostRegister") ? OUT_OF_MEMORY : 0; }
API cuMemHostUnregister(void*) { return 0; }
API cuMemHostGetDevicePointer_v2(uint64_t* device, void* host, unsigned) {
    return *device = reinterpret_cast<uint64_t>(host), 0;
}
API cuMemAllocAsync(uint64_t* address, size_t nbytes, void* stream) {
    if (refuses("cuMemAllocAsync")) return OUT_OF_MEMORY;
    *address = reinterpret_cast<uint64_t>(aligned_alloc(4096, (nbytes + 4095) / 4096 * 4096));
    return add(stream, [] {});
}
API cuMemFreeAsync(uint64_t address, void* stream) {
    return add(stream, [=] { free(reinterpret_cast<void*>(address)); });
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t nbytes, void* stream) {
    if (refuses("cuMemcpyHtoDAsync")) return OUT_OF_MEMORY;
    return add(stream, [=] { memcpy(reinterpret_cast<void*>(to), from, nbytes); });
}
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t nbytes, void* stream) {
    return add(stream, [=] { memcpy(to, reinterpret_cast<void*>(from), nbytes); });
}
API cuMemsetD8Async(uint64_t to, uint8_t value, size_t nbytes, void* stream) {
    return add(stream, [=] { memset(reinterpret_cast<void*>(to), value, nbytes); });
}
API cuModuleLoadData(void** module, const void*) { return *module = current, 0; }
API cuModuleGetFunction(void** function, void* module, const char* name) {
    return *function = new Function{!strcmp(name, "thaw_copy"), module}, 0;
}
API cuLaunchKernel(void* kernel, unsigned blocks, unsigned, unsigned, unsigned, unsigned, unsigned,
                   unsigned, void* stream, void** arguments, void**) {
    auto* function = static_cast<Function*>(kernel);
    if (function->context != current) return INVALID_HANDLE;
    auto* first = *static_cast<uint64_t**>(arguments[0]);
    if (function->copies)
        return add(stream, [=] {
            for (unsigned i = 0; i < blocks; ++i)
                memcpy(reinterpret_cast<void*>(first[3 * i + 1]),
                       reinterpret_cast<void*>(first[3 * i]), first[3 * i + 2]);
        });
    auto* found = *static_cast<uint32_t**>(arguments[1]);
    return add(stream, [=] {
        for (unsigned i = 0; i < blocks; ++i)
            found[i] = remainder(reinterpret_cast<uint8_t*>(first[2 * i]), first[2 * i + 1]);
    });
}
API cuGetErrorName(int, const char** name) { return *name = "CUDA_ERROR_FAKE", 0; }
API cuGetErrorString(int, const char** text) { return *text = "the stand-in was told to refuse", 0; }
