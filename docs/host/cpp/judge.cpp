// Judge images by the file of `edge-ad export`:  judge part.onnx image.png ...
// Prints path, score and verdict of every image. Needs ONNX Runtime (1.18 or newer) and stb_image; C++17.
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#include "resize.hpp"
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>

static Image read(const char* path) {
    Image image;
    int channels = 0;
    stbi_uc* pixels = stbi_load(path, &image.width, &image.height, &channels, 3);
    if (pixels == nullptr) throw std::runtime_error(std::string(path) + ": " + stbi_failure_reason());
    image.pixels.assign(pixels, pixels + std::size_t(image.height) * image.width * 3);
    stbi_image_free(pixels);
    return image;
}

class Inspector {
   public:
    explicit Inspector(const std::string& path) : session_(env_, std::basic_string<ORTCHAR_T>(path.begin(), path.end()).c_str(), {}) {
        const auto shape = session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();  // 1, height, width, 3
        height_ = int(shape[1]), width_ = int(shape[2]);
        Ort::AllocatorWithDefaultOptions allocator;
        const auto geometry = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("edge_ad.geometry", allocator);
        locates_ = geometry && std::strstr(geometry.get(), "\"locates\": true") != nullptr;
    }

    // Return the score and the verdict, 0 OK, 1 WARN or 2 NG.
    std::pair<float, int> judge(const Image& image) {
        if (locates_ && (image.height != height_ || image.width != width_))
            throw std::runtime_error("this model takes a part that was located and cut out upright, " +
                                     std::to_string(width_) + " x " + std::to_string(height_) + " pixels");
        Image input = resize(image, height_, width_);
        const std::array<std::int64_t, 4> shape{1, height_, width_, 3};
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const auto tensor = Ort::Value::CreateTensor<std::uint8_t>(memory, input.pixels.data(), input.pixels.size(),
                                                                   shape.data(), shape.size());
        const char *inputs[] = {"image"}, *outputs[] = {"score", "verdict"};  // there are "map" and "z" too
        const auto results = session_.Run(Ort::RunOptions{}, inputs, &tensor, 1, outputs, 2);
        return {*results[0].GetTensorData<float>(), *results[1].GetTensorData<std::int32_t>()};
    }

   private:
    Ort::Env env_{ORT_LOGGING_LEVEL_WARNING, "judge"};
    Ort::Session session_;
    int height_ = 0, width_ = 0;
    bool locates_ = false;
};

int main(int count, char** arguments) {
    static const char* const verdicts[] = {"OK", "WARN", "NG"};
    if (count < 3) {
        std::fprintf(stderr, "usage: judge MODEL.onnx IMAGE...\n");
        return 2;
    }
    try {
        Inspector inspector(arguments[1]);
        for (int index = 2; index < count; ++index) {
            const auto [score, verdict] = inspector.judge(read(arguments[index]));
            std::printf("%s %.6f %s\n", arguments[index], score, verdicts[verdict]);
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 2;
    }
    return 0;
}
