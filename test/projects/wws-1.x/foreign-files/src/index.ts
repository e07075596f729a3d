const text: string = "served";
