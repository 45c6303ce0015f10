// A device of its own that computes on the CPU. As a GPU does, it refuses operations on tensors of two devices; and it
// counts how often the host would have to wait for a GPU: values that are read, copies that are not said not to block,
// and results whose size is known only when they are there.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <set>
#include <vector>

namespace {

using Integers = at::IntArrayRef;
using Symbols = c10::SymIntArrayRef;

const c10::Device DEVICE(c10::DeviceType::PrivateUse1, 0);
const std::set<std::string> SIZED_BY_VALUES = {
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
    "aten::equal", "aten::bincount", "aten::repeat_interleave"};

std::atomic<int64_t> waits{0};
thread_local int inside = 0;  // what this device does to compute something is no wait of the program's

struct Inside {
  Inside() { inside++; }
  ~Inside() { inside--; }
};

void wait() { waits += inside == 0; }

// ---------------------------------------------------------------------------------------------------------- the device

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = c10::GetCPUAllocator()->raw_allocate(std::max<size_t>(bytes, 1));
    return {data, data, &Memory::free, DEVICE};
  }
  static void free(void* data) { c10::GetCPUAllocator()->raw_deallocate(data); }
  c10::DeleterFnPtr raw_deleter() const override { return &Memory::free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};
Memory memory;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return DEVICE.type(); }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static at::Generator one = at::detail::createCPUGenerator();
    return one;
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    c10::DataPtr other = memory.allocate(bytes);
    std::memcpy(other.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.set_data_ptr_noswap(std::move(other));
    storage.set_nbytes(bytes);
  }
};

// The same memory as a tensor of the CPU.
at::Tensor host(const at::Tensor& there) {
  if (!there.is_privateuseone()) return there;
  return at::from_blob(
      there.data_ptr(), there.sizes(), there.strides(), [there](void*) {}, there.options().device(at::kCPU));
}

at::Tensor there(const at::Tensor& host) { return host.defined() ? host.to(DEVICE) : host; }

// ------------------------------------------------------------------------------------------ what a device must do itself

at::Tensor empty(Integers size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &memory, keys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(Integers size, Integers stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool>) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &memory, keys, c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (from.device() != to.device() && !non_blocking) wait();
  Inside now;
  host(to).copy_(host(from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar item(const at::Tensor& tensor) {
  wait();
  return at::_local_scalar_dense(host(tensor));
}

at::Tensor& set_part(at::Tensor& tensor, at::Storage storage, int64_t offset, Integers size, Integers stride) {
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(storage);
  tensor.unsafeGetTensorImpl()->set_storage_offset(offset);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride);
  return tensor;
}

at::Tensor& set_whole(at::Tensor& tensor, at::Storage storage) {
  const auto values = static_cast<int64_t>(storage.nbytes() / tensor.dtype().itemsize());
  return set_part(tensor, storage, 0, {values}, {1});
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       Symbols stride, Symbols padding, Symbols dilation, bool transposed, Symbols output_padding,
                       c10::SymInt groups) {
  const bool biased = bias.has_value() && bias->defined();
  TORCH_CHECK(x.is_privateuseone() && weight.is_privateuseone() && (!biased || bias->is_privateuseone()),
              "Expected all tensors to be on the same device, but found two: convolution");
  Inside now;
  c10::impl::ExcludeDispatchKeyGuard without_gradients(c10::autograd_dispatch_keyset);
  return there(at::convolution_symint(host(x), host(weight), biased ? std::optional(host(*bias)) : std::nullopt, stride,
                                      padding, dilation, transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& weight, Symbols stride, Symbols padding,
    Symbols dilation, bool transposed, Symbols output_padding, c10::SymInt groups, std::array<bool, 3> wanted) {
  Inside now;
  c10::impl::ExcludeDispatchKeyGuard without_gradients(c10::autograd_dispatch_keyset);
  const std::vector<c10::SymInt> bias{gradient.sym_size(1)};
  const auto made = at::convolution_backward_symint(
      host(gradient), host(x), host(weight), wanted[2] ? c10::OptionalArrayRef<c10::SymInt>(bias) : std::nullopt,
      stride, padding, dilation, transposed, output_padding, groups, wanted);
  return {there(std::get<0>(made)), there(std::get<1>(made)), there(std::get<2>(made))};
}

// ------------------------------------------------------------------------------------------------------- and all the rest

// Arguments are the same memory as tensors of the CPU, so that what an operation changes is changed in its place, be it
// declared in its schema or, like a batch norm's running statistics, not.
void everything_else(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t first = stack->size() - schema.arguments().size();
  const std::vector<c10::IValue> given(stack->begin() + first, stack->end());

  bool here = false, elsewhere = false;
  const auto moved = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    here |= tensor.is_privateuseone();
    elsewhere |= !tensor.is_privateuseone() && tensor.dim() > 0;
    return host(tensor);
  };
  std::vector<at::Tensor> outs(given.size());
  for (size_t i = 0; i < given.size(); i++) {
    const auto& argument = schema.arguments()[i];
    auto& value = (*stack)[first + i];
    if (argument.is_out()) {  // may have another size by now
      moved(value.toTensor());
      value = outs[i] = at::empty({0}, value.toTensor().options().device(at::kCPU));
    } else if (value.isTensor()) {
      value = moved(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : given[i].toTensorList()) list.push_back(moved(tensor));
      value = list;
    } else if (value.isOptionalTensorList()) {  // indices, which may be of the CPU
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& index : given[i].toOptionalTensorList())
        list.push_back(index ? std::optional(host(*index)) : std::nullopt);
      value = list;
    } else if (value.isDevice()) {
      value = at::Device(at::kCPU);
    }
  }
  TORCH_CHECK(!(here && elsewhere), "Expected all tensors to be on the same device, but found two: ", schema.name());
  if (SIZED_BY_VALUES.count(schema.name())) wait();
  Inside now;
  op.callBoxed(stack);

  for (size_t i = 0; i < given.size(); i++) {
    if (!outs[i].defined()) continue;
    given[i].toTensor().resize_(outs[i].sizes());
    host(given[i].toTensor()).copy_(outs[i]);
  }
  const size_t answers = stack->size() - schema.returns().size();
  for (size_t i = 0; i < schema.returns().size(); i++) {
    auto& value = (*stack)[answers + i];
    const auto* alias = schema.returns()[i].alias_info();
    const auto same = std::find_if(schema.arguments().begin(), schema.arguments().end(), [&](const auto& argument) {
      return alias && alias->isWrite() && argument.alias_info() && *argument.alias_info() == *alias;
    });
    if (same != schema.arguments().end()) {
      value = given[same - schema.arguments().begin()];
    } else if (value.isTensor()) {
      value = there(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorList()) list.push_back(there(tensor));
      value = list;
    }
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &item);
  library.impl("set_.source_Storage", &set_whole);
  library.impl("set_.source_Storage_storage_offset", &set_part);
  library.impl("convolution_overrideable", &convolution);
  library.impl("convolution_backward_overrideable", &convolution_backward);
  library.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  library.impl("view", TORCH_FN(at::native::view));
  library.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  library.impl("unfold", TORCH_FN(at::native::unfold));
  library.impl("resize_", TORCH_FN(at::native::resize_));
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&everything_else>());
}

// An operator, as pybind11 and torch/extension.h would take as long to compile as all the rest.
TORCH_LIBRARY(second, library) {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::SetAllocator(c10::DeviceType::PrivateUse1, &memory);
  library.def("waits() -> int", []() -> int64_t { return waits.load(); });  // how often the host has waited so far
}
