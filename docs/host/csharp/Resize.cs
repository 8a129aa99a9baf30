// The resize of edge-ad, as OpenCV computes it: area where an image shrinks, linear where it grows.
using System;
using System.Collections.Generic;

public static class Resize
{
    public static Image To(Image image, int height, int width)
    {
        int smallerHeight = Math.Min(image.Height, height), smallerWidth = Math.Min(image.Width, width);
        Image result = image;
        if (smallerHeight != image.Height || smallerWidth != image.Width) result = Shrink(image, smallerHeight, smallerWidth);
        if (smallerHeight != height || smallerWidth != width) result = Grow(result, height, width);
        return result;
    }

    // How much of a source pixel goes into a target pixel.
    private struct Share
    {
        public int Source, Target;
        public float Weight;
    }

    private static List<Share> Shares(int source, int target)
    {
        List<Share> result = new List<Share>();
        double scale = (double)source / target;
        for (int place = 0; place < target; ++place)
        {
            double begin = place * scale, end = begin + scale, length = Math.Min(scale, source - begin);
            int last = Math.Min((int)Math.Floor(end), source - 1), first = Math.Min((int)Math.Ceiling(begin), last);
            if (first - begin > 1e-3) result.Add(new Share { Source = first - 1, Target = place, Weight = (float)((first - begin) / length) });
            for (int inner = first; inner < last; ++inner) result.Add(new Share { Source = inner, Target = place, Weight = (float)(1 / length) });
            if (end - last > 1e-3)
                result.Add(new Share { Source = last, Target = place, Weight = (float)(Math.Min(Math.Min(end - last, 1), length) / length) });
        }
        return result;
    }

    private static byte ToByte(double value)
    {
        return (byte)Math.Max(0, Math.Min(255, Math.Round(value))); // a half goes to the even number
    }

    private static Image Shrink(Image image, int height, int width)
    {
        if (image.Height % height == 0 && image.Width % width == 0) return ShrinkByBlocks(image, height, width);
        Image result = new Image(height, width);
        List<Share> columns = Shares(image.Width, width), rows = Shares(image.Height, height);
        float[] line = new float[width * 3], sum = new float[width * 3];
        for (int index = 0; index < rows.Count; ++index)
        {
            Share row = rows[index];
            Array.Clear(line, 0, line.Length);
            foreach (Share column in columns)
                for (int channel = 0; channel < 3; ++channel)
                    line[column.Target * 3 + channel] += image.Pixels[(row.Source * image.Width + column.Source) * 3 + channel] * column.Weight;
            bool first = index == 0 || rows[index - 1].Target != row.Target;
            bool last = index + 1 == rows.Count || rows[index + 1].Target != row.Target;
            for (int x = 0; x < line.Length; ++x)
            {
                sum[x] = first ? row.Weight * line[x] : sum[x] + row.Weight * line[x];
                if (last) result.Pixels[row.Target * width * 3 + x] = ToByte(sum[x]);
            }
        }
        return result;
    }

    // Whole numbers of pixels become one: their mean, of four rounded up and of more to the even number.
    private static Image ShrinkByBlocks(Image image, int height, int width)
    {
        Image result = new Image(height, width);
        int down = image.Height / height, across = image.Width / width;
        float share = 1f / (down * across);
        for (int y = 0; y < height; ++y)
            for (int x = 0; x < width * 3; ++x)
            {
                int sum = 0;
                for (int inner = 0; inner < down * across; ++inner)
                    sum += image.Pixels[((y * down + inner / across) * image.Width + x / 3 * across + inner % across) * 3 + x % 3];
                result.Pixels[y * width * 3 + x] = down == 2 && across == 2 ? (byte)((sum + 2) >> 2) : ToByte(sum * share);
            }
        return result;
    }

    // The two neighbours of a target pixel and their weights in units of 1/2048.
    private struct Pair
    {
        public int First, Second, FirstWeight, SecondWeight;
    }

    private static Pair[] Pairs(int source, int target)
    {
        Pair[] result = new Pair[target];
        double scale = 1 / ((double)target / source);
        for (int place = 0; place < target; ++place)
        {
            float along = (float)((place + 0.5) * scale - 0.5), first = (float)Math.Floor(along), weight = along - first;
            int before = (int)first;
            result[place].First = Math.Max(0, Math.Min(source - 1, before));
            result[place].Second = Math.Max(0, Math.Min(source - 1, before + 1));
            result[place].FirstWeight = (int)Math.Round((1f - weight) * 2048);
            result[place].SecondWeight = (int)Math.Round(weight * 2048);
        }
        return result;
    }

    private static Image Grow(Image image, int height, int width)
    {
        Image result = new Image(height, width);
        Pair[] columns = Pairs(image.Width, width), rows = Pairs(image.Height, height);
        for (int y = 0; y < height; ++y)
            for (int x = 0; x < width * 3; ++x)
            {
                int upper = (rows[y].FirstWeight * (Across(image, rows[y].First, columns[x / 3], x % 3) >> 4)) >> 16;
                int lower = (rows[y].SecondWeight * (Across(image, rows[y].Second, columns[x / 3], x % 3) >> 4)) >> 16;
                result.Pixels[y * width * 3 + x] = (byte)Math.Max(0, Math.Min(255, (upper + lower + 2) >> 2));
            }
        return result;
    }

    private static int Across(Image image, int y, Pair at, int channel)
    {
        int row = y * image.Width * 3 + channel;
        return image.Pixels[row + at.First * 3] * at.FirstWeight + image.Pixels[row + at.Second * 3] * at.SecondWeight;
    }
}
