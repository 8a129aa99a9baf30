// The resize of edge-ad, byte for byte as OpenCV computes it: area where an image shrinks, linear where it grows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

struct Image {
    int height = 0, width = 0;
    std::vector<std::uint8_t> pixels;  // RGB, row by row

    const std::uint8_t* row(int y) const { return pixels.data() + std::size_t(y) * width * 3; }
    std::uint8_t* row(int y) { return pixels.data() + std::size_t(y) * width * 3; }
};

inline Image blank(int height, int width) {
    return {height, width, std::vector<std::uint8_t>(std::size_t(height) * width * 3)};
}

// How much of a source pixel goes into a target pixel.
struct Share {
    int source, target;
    float weight;
};

inline std::vector<Share> shares(int source, int target) {
    std::vector<Share> result;
    const double scale = double(source) / target;
    for (int place = 0; place < target; ++place) {
        const double begin = place * scale, end = begin + scale, length = std::min(scale, source - begin);
        const int last = std::min(int(std::floor(end)), source - 1), first = std::min(int(std::ceil(begin)), last);
        if (first - begin > 1e-3) result.push_back({first - 1, place, float((first - begin) / length)});
        for (int inner = first; inner < last; ++inner) result.push_back({inner, place, float(1 / length)});
        if (end - last > 1e-3)
            result.push_back({last, place, float(std::min(std::min(end - last, 1.0), length) / length)});
    }
    return result;
}

inline std::uint8_t to_byte(float value) { return std::uint8_t(std::clamp(std::nearbyint(value), 0.0f, 255.0f)); }

// Whole numbers of pixels become one: their mean, of four rounded up and of more to the even number.
inline Image shrink_by_blocks(const Image& image, int height, int width) {
    Image result = blank(height, width);
    const int down = image.height / height, across = image.width / width;
    const float share = 1.0f / (down * across);
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width * 3; ++x) {
            int sum = 0;
            for (int inner = 0; inner < down * across; ++inner)
                sum += image.row(y * down + inner / across)[(x / 3 * across + inner % across) * 3 + x % 3];
            result.row(y)[x] = down == 2 && across == 2 ? std::uint8_t((sum + 2) >> 2) : to_byte(sum * share);
        }
    return result;
}

inline Image shrink(const Image& image, int height, int width) {
    if (image.height % height == 0 && image.width % width == 0) return shrink_by_blocks(image, height, width);
    Image result = blank(height, width);
    const auto columns = shares(image.width, width), rows = shares(image.height, height);
    std::vector<float> line(std::size_t(width) * 3), sum(line.size());
    for (std::size_t index = 0; index < rows.size(); ++index) {
        const Share& row = rows[index];
        const std::uint8_t* source = image.row(row.source);
        std::fill(line.begin(), line.end(), 0.0f);
        for (const Share& column : columns)
            for (int channel = 0; channel < 3; ++channel)
                line[column.target * 3 + channel] += source[column.source * 3 + channel] * column.weight;
        const bool first = index == 0 || rows[index - 1].target != row.target;
        for (std::size_t x = 0; x < line.size(); ++x) sum[x] = first ? row.weight * line[x] : sum[x] + row.weight * line[x];
        if (index + 1 == rows.size() || rows[index + 1].target != row.target)
            std::transform(sum.begin(), sum.end(), result.row(row.target), to_byte);
    }
    return result;
}

// The two neighbours of a target pixel and their weights in units of 1/2048.
struct Pair {
    int first, second, weight_first, weight_second;
};

inline std::vector<Pair> pairs(int source, int target) {
    std::vector<Pair> result;
    const double scale = 1.0 / (double(target) / source);
    for (int place = 0; place < target; ++place) {
        const float along = float((place + 0.5) * scale - 0.5), first = std::floor(along), weight = along - first;
        const int before = int(first), after = before + 1;
        result.push_back({std::clamp(before, 0, source - 1), std::clamp(after, 0, source - 1),
                          int(std::nearbyint((1.0f - weight) * 2048)), int(std::nearbyint(weight * 2048))});
    }
    return result;
}

inline Image grow(const Image& image, int height, int width) {
    Image result = blank(height, width);
    const auto columns = pairs(image.width, width), rows = pairs(image.height, height);
    const auto across = [&](int y, int x) {
        const Pair& at = columns[x / 3];
        const std::uint8_t* source = image.row(y);
        return source[at.first * 3 + x % 3] * at.weight_first + source[at.second * 3 + x % 3] * at.weight_second;
    };
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width * 3; ++x) {
            const Pair& at = rows[y];
            const int upper = (at.weight_first * (across(at.first, x) >> 4)) >> 16;
            const int lower = (at.weight_second * (across(at.second, x) >> 4)) >> 16;
            result.row(y)[x] = std::uint8_t(std::clamp((upper + lower + 2) >> 2, 0, 255));
        }
    return result;
}

inline Image resize(const Image& image, int height, int width) {
    const int smaller_height = std::min(image.height, height), smaller_width = std::min(image.width, width);
    Image result = image;
    if (smaller_height != image.height || smaller_width != image.width) result = shrink(image, smaller_height, smaller_width);
    if (smaller_height != height || smaller_width != width) result = grow(result, height, width);
    return result;
}
