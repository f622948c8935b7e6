// The order of the entries of a table that has one function a storage type.
#pragma once

namespace jpllm {

enum StorageType { kFp32 = 0, kBf16 = 1, kFp16 = 2, kStorageTypes = 3 };

}  // namespace jpllm
