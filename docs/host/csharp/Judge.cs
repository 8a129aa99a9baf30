// Judge images by the file of `edge-ad export`:  dotnet run -- part.onnx image.bmp ...
// Prints path, score and verdict of every image. It reads 24-bit BMP files, so that it needs no library of images; the
// bytes of a camera take the place of Image.Read.
using System;
using System.Globalization;
using System.IO;
using System.Linq;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

/// <summary>Bytes of red, green and blue, row by row.</summary>
public sealed class Image
{
    public readonly int Height, Width;
    public readonly byte[] Pixels;

    public Image(int height, int width)
    {
        Height = height;
        Width = width;
        Pixels = new byte[height * width * 3];
    }

    public static Image Read(string path)
    {
        byte[] file = File.ReadAllBytes(path);
        if (file.Length < 54 || file[0] != 'B' || file[1] != 'M' || BitConverter.ToInt16(file, 28) != 24 || BitConverter.ToInt32(file, 30) != 0)
            throw new InvalidDataException(path + " is no BMP file of 24 bits without compression");
        int start = BitConverter.ToInt32(file, 10), width = BitConverter.ToInt32(file, 18), height = BitConverter.ToInt32(file, 22);
        bool upsideDown = height > 0; // the last row comes first
        Image image = new Image(Math.Abs(height), width);
        int stride = (width * 3 + 3) / 4 * 4;
        for (int y = 0; y < image.Height; ++y)
            for (int x = 0; x < width; ++x)
                for (int channel = 0; channel < 3; ++channel) // a file has blue first
                    image.Pixels[(y * width + x) * 3 + channel] =
                        file[start + (upsideDown ? image.Height - 1 - y : y) * stride + x * 3 + 2 - channel];
        return image;
    }
}

public sealed class Inspector : IDisposable
{
    private readonly InferenceSession session;
    private readonly int height, width;
    private readonly bool locates;

    public Inspector(string path)
    {
        session = new InferenceSession(path);
        int[] shape = session.InputMetadata["image"].Dimensions; // 1, height, width, 3
        height = shape[1];
        width = shape[2];
        locates = session.ModelMetadata.CustomMetadataMap["edge_ad.geometry"].Contains("\"locates\": true");
    }

    /// <summary>Return the score; the verdict is 0 OK, 1 WARN or 2 NG.</summary>
    public float Judge(Image image, out int verdict)
    {
        if (locates && (image.Height != height || image.Width != width))
            throw new ArgumentException("this model takes a part that was located and cut out upright, " + width + " x " + height + " pixels");
        DenseTensor<byte> tensor = new DenseTensor<byte>(Resize.To(image, height, width).Pixels, new[] { 1, height, width, 3 });
        NamedOnnxValue[] inputs = { NamedOnnxValue.CreateFromTensor("image", tensor) };
        using (var results = session.Run(inputs, new[] { "score", "verdict" })) // there are "map" and "z" too
        {
            verdict = results.Last().AsTensor<int>().First();
            return results.First().AsTensor<float>().First();
        }
    }

    public void Dispose()
    {
        session.Dispose();
    }
}

public static class Program
{
    private static readonly string[] Verdicts = { "OK", "WARN", "NG" };

    public static int Main(string[] arguments)
    {
        if (arguments.Length < 2)
        {
            Console.Error.WriteLine("usage: Judge MODEL.onnx IMAGE.bmp...");
            return 2;
        }
        try
        {
            using (Inspector inspector = new Inspector(arguments[0]))
                foreach (string path in arguments.Skip(1))
                {
                    float score = inspector.Judge(Image.Read(path), out int verdict);
                    Console.WriteLine(string.Format(CultureInfo.InvariantCulture, "{0} {1:F6} {2}", path, score, Verdicts[verdict]));
                }
            return 0;
        }
        catch (Exception error)
        {
            Console.Error.WriteLine("error: " + error.Message);
            return 2;
        }
    }
}
